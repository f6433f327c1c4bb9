"""Countdown, procedural: reach a target from given numbers with + - * / and parentheses.

Many expressions are right; the one a problem was made from is its solution. ``wrong`` makes a share
of the demonstrations miss the target, so that RL has something to mend that imitation cannot.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from upslope.envs.episodes import single_turn
from upslope.envs.slips import with_slips
from upslope.rewards.expression import evaluate
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

SHOTS = (((2, 3, 7), 13, "2*3+7"), ((1, 4, 6), 18, "(4-1)*6"), ((2, 5, 8), 20, "8/2*5"))
STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}
TRIES = 200  # draws for each problem wanted before there are taken to be no more
IDLE = 5000  # draws in a row that find none, before the same
SAID = re.compile(r"answer\s*(?:is|:)", re.IGNORECASE)


@dataclass(frozen=True)
class Countdown:
    """``numbers`` numbers from 1 to ``largest``, and a target up to ``target``.

    ``use``: "every" number exactly once, or "any" of them at most once. ``form``: "characters"
    (``2 3 7=13:`` for ladder models), "text" (few-shot, ends at a new line) or "chat", where the
    expression follows "Answer:". ``train`` and ``test`` bound how many problems a split holds.
    """

    numbers: int = 3
    largest: int = 9
    target: int = 30
    use: Literal["every", "any"] = "every"
    form: Literal["characters", "text", "chat"] = "characters"
    wrong: float = 0.0
    train: int = 4000
    test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 6:
            raise UserError(f"numbers is how many there are, from 2 to 6, got {self.numbers}")
        if not 2 <= self.largest <= 999 or not 2 <= self.target <= 9999:
            raise UserError("largest is from 2 to 999 and target from 2 to 9999")
        if not 0 <= self.wrong <= 1:
            raise UserError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if self.train < 1 or self.test < 1:
            raise UserError("train and test are numbers of problems: set each to at least 1")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions of this split, at most ``train`` or ``test`` of them.

        A question is its numbers, smallest first, and its target, whatever the seed and the form.
        """
        wanted = self.train if split == "train" else self.test
        draw = random.Random(seed_of(self.seed, "countdown", self.numbers, split))
        found: dict[str, Problem] = {}
        shown, last = {question_of(given, target) for given, target, _ in SHOTS}, 0
        for drawn in range(TRIES * wanted):
            if len(found) == wanted or drawn - last > IDLE:
                break
            given = sorted(draw.randint(1, self.largest) for _ in range(self.numbers))
            expression, value = expression_of(draw, given)
            question = question_of(given, value)
            if not 1 <= value <= self.target or value.denominator > 1 or question in shown:
                continue
            if question not in found and split_of(question) == split:
                slip, _ = expression_of(draw, given, but=value)
                found[question], last = self._problem(question, given, expression, slip), drawn
        return list(found.values())

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem with its solution or, for a share ``wrong``, an expression that misses."""
        return with_slips(self.problems(split), self.wrong, self.seed)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 for an expression of the given numbers that is worth the target.

        Parts: ``correct``, and ``format``: whether the answer was an arithmetic expression at all.
        """
        return [self._reward(problem, t.text) for t in trajectories]

    def _reward(self, problem: Problem, text: str) -> Reward:
        said = answer_in(text) if self.form == "chat" else text
        written, _, right = said.strip().rpartition("=")
        if not written or right.strip() != problem.answer:
            written = said.strip()
        seen = evaluate(written)
        if seen is None:
            return Reward(0.0, {"correct": 0.0, "format": 0.0})
        given, used = Counter(problem.info["numbers"]), Counter(seen.numbers)
        allowed = used == given if self.use == "every" else used <= given
        correct = float(allowed and seen.value == int(problem.answer))
        return Reward(correct, {"correct": correct, "format": 1.0}, answer=written)

    def _problem(self, question: str, given: Sequence[int], solution: str, slip: str) -> Problem:
        answer = question.rpartition("=")[2]
        info = {"numbers": tuple(given), "slip": slip}
        if self.form == "characters":
            return Problem(question, (), f"{question}:", (), answer, solution, info)
        if self.form == "text":
            shots = "".join(f"{question_of(n, t)}: {shown}\n" for n, t, shown in SHOTS)
            info["slip"] = f" {slip}"
            prompt, solution = f"{shots}{question}:", f" {solution}"
            return Problem(question, (), prompt, ("\n",), answer, solution, info)
        how = "each of" if self.use == "every" else "some of"
        asked = (
            f"Use {how} the numbers {', '.join(map(str, given))} once, with + - * / and "
            f'parentheses, to make {answer}. End with "Answer:" and the expression only.'
        )
        info["slip"] = f"Answer: {slip}"
        message = {"role": "user", "content": asked}
        return Problem(question, (message,), "", (), answer, f"Answer: {solution}", info)


def question_of(given: Sequence[int], target: int | Fraction) -> str:
    """The numbers and the target as characters, such as ``2 3 7=13``."""
    return f"{' '.join(map(str, given))}={target}"


def answer_in(text: str) -> str:
    """What follows the last "answer:" of a reply on its line; without one, the last line."""
    places = [found.end() for found in SAID.finditer(text)]
    if places:
        return text[places[-1] :].strip().partition("\n")[0].strip(" .*`$")
    return text.strip().rpartition("\n")[2]


def expression_of(
    draw: random.Random, given: Sequence[int], but: Fraction | None = None
) -> tuple[str, Fraction]:
    """A random expression of all the numbers, and its value, which is not ``but``."""
    while True:
        parts = [(Fraction(n), str(n), 3) for n in given]
        draw.shuffle(parts)
        while len(parts) > 1:
            one, other = (parts.pop(draw.randrange(len(parts))) for _ in range(2))
            sign = draw.choice([s for s in STRENGTH if s != "/" or other[0]])
            parts.append(_joined(one, sign, other))
        value, written, _ = parts[0]
        if value != but:
            return written, value


Part = tuple[Fraction, str, int]


def _joined(one: Part, sign: str, other: Part) -> Part:
    """Two parts as one, with parentheses only where they are needed; the last is its strength."""
    left = one[1] if one[2] >= STRENGTH[sign] else f"({one[1]})"
    tight = other[2] > STRENGTH[sign] or (other[2] == STRENGTH[sign] and sign in "+*")
    right = other[1] if tight else f"({other[1]})"
    a, b = one[0], other[0]
    value = {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b
    return value, f"{left}{sign}{right}", STRENGTH[sign]
