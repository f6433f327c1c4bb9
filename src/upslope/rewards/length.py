"""A reward without what a reply's length alone explains of it.

The reward is regressed on the number of sampled tokens over the last groups, and the line's slope
is taken off: what is left has no correlation with length there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.merged import noted
from upslope.rewards.nested import asked
from upslope.rewards.own import Own
from upslope.rewards.shaped import moved
from upslope.types import Problem, Reward, Trajectory

Seen = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Length:
    """``of``: the reward, a table with a ``type``. ``window``: groups that the line is fitted to,
    the one being graded last; 1 is that one alone, and a resumed run begins with none. ``within``
    "group" fits what differs in each group, "window" all plays alike, where a hard problem with
    long replies counts as length.

    Parts: ``raw``, what it was before; ``length_slope``, the reward that a token more went with.
    """

    of: Annotated[OpensReward, REWARDS] = Own()
    window: int = 64
    within: Literal["group", "window"] = "group"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    def open(self, host: Host) -> Grades:
        """With nothing seen."""
        return Level(self, {"of": self.of.open(host)}, deque(maxlen=self.window))


@dataclass(frozen=True)
class Level:
    """An opened reward, and lengths and totals of the last groups."""

    settings: Length
    asks: Mapping[str, Grades]
    seen: deque[Seen]
    compares: bool = True

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Less slope times the length beyond the window's mean."""
        graded = await asked(self.asks["of"], problem, trajectories)
        pairs = [(t.length, r.total) for t, r in zip(trajectories, graded, strict=True) if r.valid]
        if not pairs:
            return graded
        lengths, totals = np.array(pairs, dtype=np.float64).T
        self.seen.append((lengths, totals))
        slope, mean = self.line()
        return [
            noted(moved(r, -slope * (t.length - mean)), {"length_slope": slope}) if r.valid else r
            for t, r in zip(trajectories, graded, strict=True)
        ]

    def line(self) -> tuple[float, float]:
        """The slope, 0 where all lengths are equal, and the mean length."""
        lengths, totals = (np.concatenate(column) for column in zip(*self.seen, strict=True))
        mean = float(lengths.mean())
        if self.settings.within == "group":
            apart = [(x - x.mean(), y - y.mean()) for x, y in self.seen]
            lengths, totals = (np.concatenate(column) for column in zip(*apart, strict=True))
        x, y = lengths - lengths.mean(), totals - totals.mean()
        spread = float(x @ x)
        return (float(x @ y) / spread if spread > 0 else 0.0), mean
