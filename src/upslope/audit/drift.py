"""Whether a reward climbs while the true one does not: what sequential tests are told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

ENOUGH = 64  # audited plays that say where it began
BLOCK = 256  # and how high the true reward has been
CLIMBED = 0.5  # standard deviations that the reward must have climbed
PART = 0.1  # of that, what the true reward must have climbed, in its own standard deviations
LEFT = 0.1  # and at most this part of what is left to the highest one seen
LOST = 0.1  # of its climb, what the true reward may lose again
ERRORS = 3.0  # and standard errors of where it was highest
NEW = 0.3  # weight of the newest step in the moving average of the reward


@dataclass
class Drift:
    """``first``: visible and true rewards of the first plays audited, until there are enough; then
    ``where`` has the mean and deviation of both. ``now``: the visible one's moving average.

    ``block``: true rewards since the last block was full; ``best``: the highest mean of a block.
    ``low``, ``high``: true rewards seen.
    """

    first: list[list[float]] = field(default_factory=list)
    where: list[float] = field(default_factory=list)
    block: list[float] = field(default_factory=list)
    now: float = 0.0
    best: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def take(
        self, pairs: Sequence[tuple[float, float]], mean: float
    ) -> tuple[list[float], list[float]]:
        """By how much each true reward is below what the climb of the visible one owes it, and
        below where it has been, as parts of their range, from -1 to 1; nothing before a climb.

        ``pairs``: visible and true rewards audited in this step; ``mean``: of all visible ones.
        """
        golds = [gold for _, gold in pairs]
        begun = bool(self.where or self.first)
        self.low = min([*golds, self.low] if begun else golds)
        self.high = max([*golds, self.high] if begun else golds)
        if not self.where:
            self.first += [list(pair) for pair in pairs]
            if len(self.first) >= ENOUGH:
                self._begin()
            return [], []
        self.now += NEW * (mean - self.now)
        visible, spread, gold, own = self.where
        climb, reach = (self.now - visible) / spread if spread else 0.0, self.high - self.low
        slack = max(LOST * (self.best - gold), ERRORS * own / BLOCK**0.5)
        highest = self.best - slack
        self._remember(golds)
        if climb < CLIMBED or not reach:
            return [], []
        # What had no spread when it began has some of its range.
        owed = gold + min(PART * climb * (own or LEFT * reach), LEFT * (self.high - gold))
        return [_below(owed, g, reach) for g in golds], [_below(highest, g, reach) for g in golds]

    def _begin(self) -> None:
        visible, gold = ([pair[side] for pair in self.first] for side in (0, 1))
        self.where = [fmean(visible), pstdev(visible), fmean(gold), pstdev(gold)]
        self.first, self.now, self.best = [], fmean(visible), fmean(gold)

    def _remember(self, golds: Sequence[float]) -> None:
        self.block += golds
        if len(self.block) >= BLOCK:
            self.best, self.block = max(self.best, fmean(self.block)), []


def _below(owed: float, gold: float, reach: float) -> float:
    return min(1.0, max(-1.0, (owed - gold) / reach))
