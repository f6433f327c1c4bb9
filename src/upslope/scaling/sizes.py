"""What a curve's parameters are at a size that was not trained: power laws over those that were.

The midpoint, the exponent and the odds of ceiling and floor are each a power of the number of
parameters, fitted for each seed by itself, so that seeds give intervals here as they do of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from upslope.scaling.curves import Curve
from upslope.scaling.fit import Solved
from upslope.scaling.forms import Array

FEWEST = 3  # sizes
EDGE = 1e-3  # of a share whose odds are taken


def at_size(curves: Sequence[Curve], sizes: Sequence[float], size: float) -> Curve:
    """The sigmoid at ``size`` by the law over ``sizes`` parameters, of which each has its curve.

    It counts as measured to what the nearest size was measured to.
    """
    names = curves[0].solved.law.names
    params = {}
    for name in names:
        seen = np.stack([_straight(name, curve.solved.params[name]) for curve in curves])
        columns = np.column_stack([np.ones(len(sizes)), np.log(sizes)])
        line = np.linalg.lstsq(columns, seen, rcond=None)[0]
        params[name] = _back(name, line[0] + line[1] * np.log(size))
    nearest = curves[int(np.argmin(np.abs(np.log(sizes) - np.log(size))))]
    solved = Solved(nearest.solved.law, params, np.zeros(len(nearest.solved.error)))
    return Curve(nearest.law, nearest.series, solved)


def misfit(curves: Sequence[Curve], sizes: Sequence[float]) -> float:
    """How far the law is off at the sizes that it was fitted to, at their full compute: RMS.

    For the two degrees of freedom that a line takes, it is that much more elsewhere.
    """
    off = [
        at_size(curves, sizes, size).at(curve.end).value - curve.at(curve.end).value
        for curve, size in zip(curves, sizes, strict=True)
    ]
    return float(np.sqrt(np.square(off).sum() / (len(sizes) - 2)))


def along(size: float, sizes: Sequence[float], costs: Sequence[float]) -> float:
    """A cost at a size, by a power law between each two neighbours; 0 where one of them is 0."""
    order = np.argsort(sizes)
    x, y = np.log(np.asarray(sizes, dtype=float)[order]), np.asarray(costs, dtype=float)[order]
    if not (y > 0).all():
        return 0.0 if (y == 0).any() else float("nan")
    place = int(np.clip(np.searchsorted(x, np.log(size)), 1, len(x) - 1))
    slope = np.log(y[place] / y[place - 1]) / (x[place] - x[place - 1])
    return float(y[place - 1] * np.exp(slope * (np.log(size) - x[place - 1])))


def between(sizes: Sequence[float]) -> list[float]:
    """Sizes to ask the law about: three between each two, and up to twice beyond the ends."""
    logs = np.log(np.sort(sizes))
    steps = [a + (b - a) * np.arange(1, 4) / 4 for a, b in pairwise(logs)]
    half = np.log(2) / 2 * np.arange(1, 3)
    return [float(n) for n in np.exp(np.concatenate([logs[0] - half, *steps, logs[-1] + half]))]


def _straight(name: str, values: Array) -> Array:
    """What is a straight line in the log of size: a log, or log odds."""
    if name in ("midpoint", "exponent"):
        return np.asarray(np.log(values))
    share = np.clip(values, EDGE, 1 - EDGE)
    return np.asarray(np.log(share / (1 - share)))


def _back(name: str, values: Array) -> Array:
    if name in ("midpoint", "exponent"):
        return np.asarray(np.exp(values))
    return np.asarray(1 / (1 + np.exp(-values)))
