"""Additions with their working, procedural: sums that stay equal while ones or tens move.

``57+28=`` may be answered by ``67+18=77+8=85``, in as many steps as one likes: each moves something
from the second number to the first. So right answers come in many lengths, and one can be aimed at,
or held to a budget. ``wrong``: the share of demonstrations that end one too high.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upslope.envs.episodes import single_turn
from upslope.envs.slips import with_slips
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

STEP = re.compile(r"(\d{1,12})\+(\d{1,12})", re.ASCII)
TRIES = 200  # draws of a working for a problem before none is taken to be as long as wanted


@dataclass(frozen=True)
class Working:
    """Numbers of ``digits`` digits; demonstrations take up to ``steps`` steps.

    ``target`` above 0: the full reward is for right answers whose length in characters is within
    ``within`` of it, and demonstrations have such a length; 0 asks for no length. Every step must
    be true. A reward reports the cost ``steps``.
    """

    digits: int = 2
    steps: int = 5
    target: int = 0
    within: int = 2
    wrong: float = 0.0
    train: int = 6000
    test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 6:
            raise UserError(f"digits must be from 1 to 6, got {self.digits}")
        if self.steps < 0 or self.target < 0 or self.within < 0:
            raise UserError("steps, target and within must not be negative")
        if not 0 <= self.wrong <= 1:
            raise UserError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if self.train < 1 or self.test < 1:
            raise UserError("train and test are numbers of problems: set each to at least 1")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions of this split, at most ``train`` or ``test`` of them."""
        wanted = self.train if split == "train" else self.test
        found: dict[str, Problem] = {}
        for a, b in self._pairs():
            question = f"{a}+{b}="
            if question not in found and split_of(question) == split:
                solution = self._solution(a, b)
                if solution is not None:
                    found[question] = _problem(question, a, b, solution)
            if len(found) == wanted:
                break
        return list(found.values())

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem with its solution or, for a share ``wrong``, an end that is one too high."""
        return with_slips(self.problems(split), self.wrong, self.seed)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Parts: ``correct`` at any length, and ``aimed``, right or wrong. Cost: ``steps``."""
        return [self._reward(problem, t.text) for t in trajectories]

    def _reward(self, problem: Problem, text: str) -> Reward:
        *steps, answer = text.split("=")
        correct = answer == problem.answer and holds(steps, *problem.info["numbers"])
        aimed = not self.target or abs(len(text) - self.target) <= self.within
        parts = {"correct": float(correct), "aimed": float(aimed)}
        said = answer if answer.isascii() and answer.isdigit() else ""
        return Reward(float(correct and aimed), parts, {"steps": float(len(steps))}, answer=said)

    def _solution(self, a: int, b: int) -> str | None:
        """The working of a problem, always the same; None where none has the length wanted."""
        draw = random.Random(seed_of(self.seed, "working", a, b))
        for _ in range(TRIES):
            text = working(draw, a, b, draw.randint(0, self.steps))
            if not self.target or abs(len(text) - self.target) <= self.within:
                return text
        return None

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """Every pair once where there are few, else draws, enough for any split."""
        draw = random.Random(seed_of(self.seed, "working", self.digits))
        low, high = 10 ** (self.digits - 1), 10**self.digits
        if high**2 <= 10_000:
            every = [(a, b) for a in range(low, high) for b in range(low, high)]
            draw.shuffle(every)
            yield from every
            return
        for _ in range(20 * (self.train + self.test)):
            yield draw.randrange(low, high), draw.randrange(low, high)


def working(draw: random.Random, a: int, b: int, steps: int) -> str:
    """Up to so many steps, each of which moves 1 or 10 where that much is left, and the sum."""
    said = ""
    for _ in range(steps):
        movable = [by for by in (1, 10) if by <= b]
        if not movable:
            break
        by = draw.choice(movable)
        a, b = a + by, b - by
        said += f"{a}+{b}="
    return f"{said}{a + b}"


def holds(steps: Sequence[str], a: int, b: int) -> bool:
    """Whether each step is a sum worth a + b whose second number is less than the one before."""
    for step in steps:
        match = STEP.fullmatch(step)
        if match is None or int(match[1]) + int(match[2]) != a + b or int(match[2]) >= b:
            return False
        a, b = int(match[1]), int(match[2])
    return True


def _problem(question: str, a: int, b: int, solution: str) -> Problem:
    answer = str(a + b)
    slip = f"{solution.removesuffix(answer)}{a + b + 1}"
    info = {"numbers": (a, b), "slip": slip}
    return Problem(question, prompt=question, answer=answer, solution=solution, info=info)
