"""Price lists, procedural: read a short list and name its highest price, as few-shot text.

A small base model copies some price from the list; that it must compare them is what RL teaches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from upslope.envs.episodes import single_turn
from upslope.rewards.numeric import exact_number
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

ITEMS = (
    "bag",
    "book",
    "brush",
    "chair",
    "clock",
    "coat",
    "cup",
    "hat",
    "knife",
    "lamp",
    "mirror",
    "pen",
    "phone",
    "plate",
    "radio",
    "shirt",
    "table",
)
PRICES = range(10, 100)
SHOTS = ({"table": 93, "cup": 16, "shirt": 19}, {"chair": 17, "knife": 74, "hat": 37})


@dataclass(frozen=True)
class Prices:
    """Lists of ``items`` different things at different prices from 10 to 99 dollars.

    ``train`` and ``test`` are how many problems the splits hold (validation: as many as test).
    The prompt ends in a dollar sign, so that a right reply is two digits and a new line.
    """

    items: int = 3
    train: int = 4000
    test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.items <= len(ITEMS):
            raise UserError(f"items is from 2 to {len(ITEMS)}, got {self.items}")
        if self.train < 1 or self.test < 1:
            raise UserError("train and test are numbers of problems: set each to at least 1")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct lists of this split; a list belongs to the same split whatever the seed."""
        wanted = self.train if split == "train" else self.test
        draw = random.Random(seed_of(self.seed, "prices", self.items, split))
        found: dict[str, Problem] = {}
        while len(found) < wanted:
            things = draw.sample(ITEMS, self.items)
            listed = dict(zip(things, draw.sample(PRICES, self.items), strict=True))
            question = _question(listed)
            if split_of(question) == split and listed not in SHOTS:
                found.setdefault(question, _problem(question, max(listed.values())))
        return list(found.values())

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 for the highest price; ``format`` says whether the reply was a number at all."""
        return [exact_number(t.text, problem.answer) for t in trajectories]


def _question(listed: dict[str, int]) -> str:
    return ", ".join(f"{thing} ${price}" for thing, price in listed.items())


def _asked(question: str) -> str:
    return f"{question}\nHighest price: $"


EXAMPLES = "".join(f"{_asked(_question(listed))}{max(listed.values())}\n\n" for listed in SHOTS)


def _problem(question: str, highest: int) -> Problem:
    answer = str(highest)
    prompt = EXAMPLES + _asked(question)
    return Problem(question, prompt=prompt, stop=("\n",), answer=answer, solution=answer)
