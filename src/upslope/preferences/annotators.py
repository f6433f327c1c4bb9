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

    name: str = ""
    temperature: float = 0.0
    flips: float = 0.0
    ties: float = 0.0
    length: float = 0.0
    skips: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("ties", self.ties)):
            if not 0 <= value < math.inf:
                raise UserError(f"an annotator's {name} is at least 0, got {value:g}: raise it")
        if not math.isfinite(self.length):
            raise UserError("an annotator's length is what a character is worth: give a number")
        for name, share in (("flips", self.flips), ("skips", self.skips)):
            if not 0 <= share <= 1:
                raise UserError(f"an annotator's {name} is a share from 0 to 1, got {share:g}")

    def compares(
        self, of: Sequence[str], texts: Sequence[str], worth: Sequence[float]
    ) -> list[float]:
        """How many other replies each one is clearly better than, less how many it is worse than;
        nothing where the question is skipped. ``of``: what names the question."""
        if self._turned(self.skips, *of, "skip"):
            return []
        looks = self._looks(of, texts, worth)
        if self._turned(self.flips, *of):
            looks = [-one for one in looks]
        return [
            float(sum((a > b) - (a < b) for b in looks if abs(a - b) > self.ties)) for a in looks
        ]

    def rates(
        self,
        of: Sequence[str],
        texts: Sequence[str],
        worth: Sequence[float],
        low: float,
        high: float,
    ) -> list[float]:
        """Whole steps of a scale, of a worth from 0 to 1; flipped they are counted from above."""
        if self._turned(self.skips, *of, "skip"):
            return []
        looks = self._looks(of, texts, worth)
        if self._turned(self.flips, *of):
            looks = [1 - one for one in looks]
        return [min(high, max(low, low + round(one * (high - low)))) for one in looks]

    def _looks(
        self, of: Sequence[str], texts: Sequence[str], worth: Sequence[float]
    ) -> list[float]:
        """What each reply looks worth."""
        found = []
        for text, value in zip(texts, worth, strict=True):
            value += self.length * len(text)
            if self.temperature:
                # The difference of two Gumbel draws is logistic: Bradley-Terry, exactly.
                draw = self._draw("look", *of, text)
                value -= self.temperature * math.log(-math.log(max(draw, 1e-300)))
            found.append(value)
        return found

    def _turned(self, share: float, *of: str) -> bool:
        """Whether an answer is among the ``share`` that is turned around."""
        return self._draw("flip", *of) < share

    def _draw(self, what: str, *of: str) -> float:
        named = (self.name,) if self.name else ()
        return random.Random(seed_of(what, self.seed, *named, *of)).random()
