"""A form fitted to one run or to several of other seeds, and what may be said from it.

Seeds are the units of a t interval; of one run alone, its held-out problems are drawn again, each
with all its points, since points of one run err together. All intervals are of 90%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from upslope.scaling.fit import CURVES, Solved, solve
from upslope.scaling.forms import Array
from upslope.scaling.series import Series

LEVEL = 0.9
DRAWS = 500
MIDPOINTS = 3.0  # compute a ceiling needs to be told, in midpoints
WIDEST = 0.15  # interval of a ceiling that is told


class Bounds(NamedTuple):
    """A value and its 90% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A form's parameters by unit: a seed's run each, or the run itself and then its redraws."""

    law: str
    series: tuple[Series, ...]
    solved: Solved

    @property
    def by_seed(self) -> bool:
        """Whether the units are seeds."""
        return len(self.series) > 1

    @property
    def end(self) -> float:
        """The compute that all runs have come to."""
        return min(s.end for s in self.series)

    def parameter(self, name: str) -> Bounds:
        """A parameter; one that is positive by its logarithm."""
        values = self.solved.params[name]
        if name in self.solved.law.linear:
            return self.bounds(values)
        return Bounds(*(float(np.exp(v)) for v in self.bounds(np.log(values))))

    def at(self, compute: float) -> Bounds:
        """The reward at so much compute."""
        return self.bounds(self.solved.at(np.array([compute]))[:, 0])

    def reach(self, target: float) -> Bounds | None:
        """The compute that reaches a reward, infinite at the end where some units never do.

        None where the curve itself does not.
        """
        needed = self._needed(target)
        asked = needed if self.by_seed else needed[:1]
        if not np.isfinite(asked).all():
            return None
        return Bounds(*(float(np.exp(v)) for v in self.bounds(np.log(needed))))

    def bounds(self, values: Array) -> Bounds:
        """What units' values say of their mean."""
        if not self.by_seed:
            low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            return Bounds(float(values[0]), float(low), float(high))
        return over_seeds(values)

    def _needed(self, target: float) -> Array:
        """Each unit's compute for a reward, by bisection of its logarithm: all forms rise."""
        low = np.full(len(self.solved.error), np.log(self.end) - 30)
        high = low + 60
        never = self.solved.at(np.exp(high)[:, None])[:, 0] < target
        for _ in range(60):
            middle = (low + high) / 2
            below = self.solved.at(np.exp(middle)[:, None])[:, 0] < target
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.where(never, np.inf, np.exp(high))


def over_seeds(values: Array, level: float = LEVEL) -> Bounds:
    """The mean of two or more seeds' values with its t interval."""
    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * error
    return Bounds(mean, mean - half, mean + half)


def fitted(series: Sequence[Series], law: str = "sigmoid", draws: int = DRAWS) -> Curve:
    """A form fitted to runs of one recipe, each by itself; of one run, also to ``draws`` redraws.

    Points weigh by their errors. Where all rewards lie between 0 and 1 no ceiling is above 1.
    """
    own = CURVES[law]
    shares = all((s.mean >= 0).all() and (s.mean <= 1).all() for s in series)
    bounds = {"ceiling": (-np.inf, 1.0)} if shares and "ceiling" in own.linear else {}
    parts = []
    for one in series:
        seen = (one.compute > 0) | own.from_zero
        ys = one.mean[None] if len(series) > 1 else np.vstack([one.mean, redrawn(one, draws)])
        weights = one.error[seen] ** -2.0
        parts.append(solve(own, [one.compute[seen]], ys[:, seen], weights, bounds=bounds))
    params = {n: np.concatenate([p.params[n] for p in parts]) for n in own.names}
    error = np.concatenate([p.error for p in parts])
    return Curve(law, tuple(series), Solved(own, params, error))


def redrawn(one: Series, draws: int) -> Array:
    """A run's points [draw, point] had other held-out problems been drawn, or other batches."""
    random = np.random.default_rng(0)
    if one.outcomes is None:
        return one.mean + one.error * random.standard_normal((draws, len(one.mean)))
    graded = ~np.isnan(one.outcomes)
    problems = len(graded)
    picks = random.multinomial(problems, np.full(problems, 1 / problems), size=draws)
    counts = np.maximum(picks @ graded, 1)
    return np.asarray((picks @ np.nan_to_num(one.outcomes)) / counts)


def refusal(curve: Curve) -> str:
    """Why nothing is said of a sigmoid's ceiling; empty where it can be told."""
    floor, ceiling = (curve.parameter(name) for name in ("floor", "ceiling"))
    midpoint, end = curve.parameter("midpoint").value, curve.end
    rise = curve.bounds(curve.solved.at(np.array([end]))[:, 0] - curve.solved.params["floor"])
    if rise.low <= 0:
        word = "falls" if rise.high < 0 else "is flat"
        seen = f"{floor.value:.3f} to {curve.at(end).value:.3f}"
        return f"the curve {word} ({seen}): no ceiling is in sight"
    wide = ceiling.high - ceiling.low
    if end < MIDPOINTS * midpoint:
        return f"ceiling not identified: run to at least {MIDPOINTS * midpoint:.1e} FLOPs"
    if wide > WIDEST:
        # An estimate's interval narrows with the square root of what is seen of the plateau.
        more = end * min(10.0, max(2.0, wide / WIDEST))
        seen = f"90% interval {ceiling.low:.2f} to {ceiling.high:.2f}"
        return f"ceiling not identified ({seen}): run to at least {more:.1e} FLOPs"
    return ""
