"""Proofs along implications, procedural: does a statement follow? Depth is the number of steps.

Chains of rules of equal length begin at different statements, of which one is given as true; what
is asked for is the end of a chain. So only following the rules, all ``depth`` of them, tells: each
set of rules is asked about twice, once with each answer, in the same split; every end is named
once, and rules and names are shuffled. Half of all answers are yes, exactly.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from string import ascii_uppercase
from typing import Literal

from upslope.envs.episodes import single_turn
from upslope.envs.slips import with_slips
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

WORDS = re.compile(r"[a-z]+", re.IGNORECASE)
YES, NO = "yes", "no"
JOINS = ("or", "and", "maybe", "to")  # between two answers
SHOTS = (
    ((("R", "T"), ("M", "Q"), ("T", "W"), ("Q", "D")), "M", "D", "M"),
    ((("K", "B"), ("Z", "F"), ("B", "L"), ("F", "H")), "Z", "L", "K"),
)
TRIES = 200  # draws for each set of rules wanted before there are taken to be no more
Rules = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Logic:
    """Each problem takes one of ``depths`` steps; ``chains`` of them begin at different letters.

    ``form``: "characters" (``a>b,k>c;k;c:`` for ladder models: rules, what is true, the question;
    the answer is ``y`` or ``n``), "text" (few-shot, ends at a new line) or "chat". ``reply``: what
    solutions show, the "answer" alone, or the "proof" before it: the letters from the one asked
    for back to its chain's beginning. Only the last word is graded. ``wrong``: the share of
    demonstrations that stop a step early and answer the opposite.
    """

    depths: tuple[int, ...] = (2,)
    chains: int = 2
    form: Literal["characters", "text", "chat"] = "characters"
    reply: Literal["answer", "proof"] = "proof"
    wrong: float = 0.0
    train: int = 4000
    test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        longest = len(ascii_uppercase) // max(self.chains, 2) - 1
        if self.chains < 2 or not self.depths or min(self.depths) < 1:
            raise UserError("depths are steps, each at least 1, and chains at least 2")
        if max(self.depths) > longest:
            raise UserError(
                f"depths go up to {longest} with chains={self.chains}: there are "
                f"{len(ascii_uppercase)} letters, got {max(self.depths)}"
            )
        if not 0 <= self.wrong <= 1:
            raise UserError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if self.train < 2 or self.test < 2:
            raise UserError("train and test are numbers of problems: set each to at least 2")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions: for each of the depths in turn, one to answer yes and one no.

        As many as ``train`` or ``test``, less one where that is odd.
        """
        wanted = (self.train if split == "train" else self.test) // 2
        draw = random.Random(seed_of(self.seed, "logic", self.chains, split))
        found: dict[str, list[Problem]] = {}
        for _ in range(TRIES * wanted):
            if len(found) == wanted:
                break
            depth = self.depths[len(found) % len(self.depths)]
            letters = iter(draw.sample(ascii_uppercase, self.chains * (depth + 1)))
            lines = ["".join(next(letters) for _ in range(depth + 1)) for _ in range(self.chains)]
            rules = [(a, b) for line in lines for a, b in pairwise(line)]
            draw.shuffle(rules)
            premises = f"{','.join(f'{a}>{b}' for a, b in rules)};{lines[0][0]};"
            if premises not in found and split_of(premises) == split:
                pair = [self._problem(rules, lines[0][0], line) for line in lines[:2]]
                found[premises] = pair if draw.random() < 0.5 else pair[::-1]
        return [problem for pair in found.values() for problem in pair]

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem with its solution or, for a share ``wrong``, with the slip."""
        return with_slips(self.problems(split), self.wrong, self.seed)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 where the reply's last word is the answer, and not the word before it the other one.

        Parts: ``correct``, and ``format``: whether the last word was an answer at all.
        """
        yes, no = self._words()
        rewards = []
        for trajectory in trajectories:
            words = [w.lower() for w in WORDS.findall(trajectory.text[-100:])]
            said = words[-1] if words else ""
            named = [word for word in words[-4:] if word not in JOINS][-2:]
            if {*named} == {yes, no}:
                said = ""  # both in one breath
            correct, form = float(said == problem.answer), float(said in (yes, no))
            parts = {"correct": correct, "format": form}
            rewards.append(Reward(correct, parts, answer=said if form else ""))
        return rewards

    def _words(self) -> tuple[str, str]:
        return (YES[0], NO[0]) if self.form == "characters" else (YES, NO)

    def _problem(self, rules: Rules, fact: str, line: str) -> Problem:
        """Whether the end of ``line`` follows; what is so at its beginning decides."""
        yes, no = self._words()
        answer, other = (yes, no) if line[0] == fact else (no, yes)
        back = line[::-1]
        info = {"depth": len(line) - 1, "slip": self._reply(back[:-1], other)}
        solution = self._reply(back, answer)
        bare = f"{','.join(f'{a}>{b}' for a, b in rules)};{fact};{line[-1]}:"
        if self.form == "characters":
            return Problem(bare, (), bare.lower(), (), answer, solution, info)
        asked = _asked(rules, fact, line[-1])
        if self.form == "chat":
            how = "Reason in one line if you like, and end with the word yes or no."
            message = {"role": "user", "content": f"{asked} {how}"}
            return Problem(bare, (message,), "", (), answer, solution, info)
        shots = "".join(f"{_asked(*shot[:3])}{self._shown(*shot)}\n\n" for shot in SHOTS)
        made = Problem(bare, (), f"{shots}{asked}", ("\n",), answer, f" {solution}", info)
        return replace(made, info={**info, "slip": f" {info['slip']}"})

    def _shown(self, rules: Rules, fact: str, end: str, start: str) -> str:
        """An example's reply."""
        before = {b: a for a, b in rules}
        return " " + self._reply(f"{end}{before[end]}{start}", YES if start == fact else NO)

    def _reply(self, back: str, answer: str) -> str:
        """The answer alone, or after the proof: the letters of a chain from its end."""
        if self.reply == "answer":
            return answer
        if self.form == "characters":
            return f"{back.lower()}:{answer}"
        return f"{' from '.join(back)}, so {answer}"


def _asked(rules: Rules, fact: str, end: str) -> str:
    listed = " ".join(f"If {a} then {b}." for a, b in rules)
    return f"{listed} {fact} is true, and nothing else is known. Does {end} follow?"
