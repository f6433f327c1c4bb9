"""Arithmetic on whole numbers, procedural: as few-shot text, as chat, or bare characters.

``wrong`` makes a share of the demonstrations follow a wrong rule (a sum without its carries, the
other operations off by one), so that RL has something to mend that imitation cannot.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from upslope.envs.episodes import single_turn
from upslope.envs.slips import with_slips
from upslope.rewards.numeric import exact_number
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory

Operation = Literal["add", "subtract", "multiply"]
SIGNS: dict[Operation, str] = {"add": "+", "subtract": "-", "multiply": "*"}
SHOTS = ((12, 35), (41, 27), (53, 14))


@dataclass(frozen=True)
class Arithmetic:
    """``digits`` of each operand, at most. ``reverse``: the answer's last digit comes first.

    ``form``: "characters" (``12+34=`` for ladder models), "text" (few-shot, ends at a new line) or
    "chat". ``train`` and ``test`` bound how many problems a split holds.
    """

    operations: tuple[Operation, ...] = ("add",)
    digits: int = 2
    form: Literal["characters", "text", "chat"] = "characters"
    reverse: bool = False
    wrong: float = 0.0
    train: int = 8000
    test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.operations:
            raise ValueError("operations must name at least one of add, subtract, multiply")
        if not 1 <= self.digits <= 9:
            raise ValueError(f"digits must be from 1 to 9, got {self.digits}")
        if not 0 <= self.wrong <= 1:
            raise ValueError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if self.train < 1 or self.test < 1:
            raise ValueError("train and test are numbers of problems: set each to at least 1")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions of this split, at most ``train`` or ``test`` of them."""
        wanted = self.train if split == "train" else self.test
        found: dict[str, Problem] = {}
        for operation, a, b in self._questions():
            question = f"{a}{SIGNS[operation]}{b}="
            if self.form == "text" and operation == "add" and (a, b) in SHOTS:
                continue  # the prompt itself says the answer
            if question not in found and split_of(question) == split:
                found[question] = self._problem(question, operation, a, b)
                if len(found) == wanted:
                    break
        return list(found.values())

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem with its solution or, for a share ``wrong``, what a wrong rule gives."""
        return with_slips(self.problems(split), self.wrong, self.seed)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 for the exact number; ``format`` says whether the reply was a number at all."""
        return [exact_number(t.text, problem.solution) for t in trajectories]

    def _questions(self) -> Iterator[tuple[Operation, int, int]]:
        """Every question once where there are few, else draws, enough for any split."""
        draw = random.Random(seed_of(self.seed, "arithmetic"))
        below = 10**self.digits
        if below**2 <= 10_000:
            every = [(o, a, b) for o in self.operations for a in range(below) for b in range(below)]
            draw.shuffle(every)
            yield from every
            return
        for _ in range(20 * (self.train + self.test)):
            operation = self.operations[draw.randrange(len(self.operations))]
            yield operation, draw.randrange(below), draw.randrange(below)

    def _problem(self, question: str, operation: Operation, a: int, b: int) -> Problem:
        value = {"add": a + b, "subtract": a - b, "multiply": a * b}[operation]
        slip = _without_carries(a, b) if operation == "add" else value + 1
        info = {"slip": self._written(slip), "operation": operation}
        answer, solution = str(value), self._written(value)
        if self.form == "chat":
            asked = {"role": "user", "content": f"{question[:-1]}=? Answer with the number only."}
            return Problem(question, (asked,), answer=answer, solution=solution, info=info)
        if self.form == "characters":
            return Problem(question, prompt=question, answer=answer, solution=solution, info=info)
        shots = "".join(f"{x}+{y}={self._written(x + y)}\n" for x, y in SHOTS)
        return Problem(question, (), shots + question, ("\n",), answer, solution, info)

    def _written(self, value: int) -> str:
        return str(value)[::-1] if self.reverse else str(value)


def _without_carries(a: int, b: int) -> int:
    digits = max(len(str(a)), len(str(b)))
    pairs = zip(str(a).zfill(digits), str(b).zfill(digits), strict=True)
    return int("".join(str((int(x) + int(y)) % 10) for x, y in pairs))
