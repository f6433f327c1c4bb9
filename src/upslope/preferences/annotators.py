"""Simulated annotators: they see what replies are worth through noise, favour length, slip.

Draws are of the annotator, the question and the reply, so that nothing depends on the order in
which they are asked. Whose worth it is (an env's gold reward) is not known here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from upslope.seeds import seed_of
from upslope.types import UserError


@dataclass(frozen=True)
class Annotator:
    """``temperature``: of Bradley-Terry, the first of two wins with the chance sigmoid((a - b) /
    temperature), and of Plackett-Luce for more of them; 0 is who always sees it right. ``flips``:
    the share of answers turned around. ``ties``: how near two replies may look to be a tie.
    ``length``: what a character of a reply looks worth by itself. ``skips``: the share of questions
    that are skipped."""

    name: str
    temperature: float = 0.0
    flips: float = 0.0
    ties: float = 0.0
    length: float = 0.0
    skips: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.ties, self.length)
        if not all(map(math.isfinite, numbers)) or min(self.temperature, self.ties) < 0:
            raise UserError("an annotator's temperature and ties are at least 0")
        if not (0 <= self.flips <= 1 and 0 <= self.skips <= 1):
            raise UserError("an annotator's flips and skips are shares from 0 to 1")

    def seen(self, key: str, texts: Sequence[str], worth: Sequence[float]) -> list[float]:
        """What each reply to the question ``key`` looks worth."""
        found = []
        for text, value in zip(texts, worth, strict=True):
            value += self.length * len(text)
            if self.temperature:
                # The difference of two Gumbel draws is logistic: Bradley-Terry, exactly.
                draw = random.Random(seed_of("look", self.seed, self.name, key, text)).random()
                value -= self.temperature * math.log(-math.log(max(draw, 1e-300)))
            found.append(value)
        return found

    def compares(self, key: str, texts: Sequence[str], worth: Sequence[float]) -> list[float]:
        """How many other replies each one is clearly better than, less how many it is worse than;
        nothing where the question is skipped."""
        if turned(self.skips, self.seed, self.name, key, "skip"):
            return []
        looks = self.seen(key, texts, worth)
        if turned(self.flips, self.seed, self.name, key):
            looks = [-one for one in looks]
        return [
            float(sum((a > b) - (a < b) for b in looks if abs(a - b) > self.ties)) for a in looks
        ]

    def rates(
        self, key: str, texts: Sequence[str], worth: Sequence[float], low: float, high: float
    ) -> list[float]:
        """Whole steps of a scale, of a worth from 0 to 1; flipped they are counted from above."""
        if turned(self.skips, self.seed, self.name, key, "skip"):
            return []
        looks = self.seen(key, texts, worth)
        if turned(self.flips, self.seed, self.name, key):
            looks = [1 - one for one in looks]
        return [min(high, max(low, low + round(one * (high - low)))) for one in looks]


def turned(share: float, seed: int, *of: str) -> bool:
    """Whether an answer is among the ``share`` that is turned around."""
    return random.Random(seed_of("flip", seed, *of)).random() < share
