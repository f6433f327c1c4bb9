"""What following a proxy did to gold: curves with standard errors, their fall, and forms fitted.

Numbers in, numbers out. Values are [seed, problem, point]: proxies that differ in their seed alone,
problems, and how far each was followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from upslope.scaling.curves import LEVEL
from upslope.scaling.forms import Array
from upslope.scaling.overoptimised import Followed, Kind, follow, r_squared

DRAWS = 300
FARTHER = 1.5  # times the distance of what is fitted, where it is asked to foretell


class Seen(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


class Between(NamedTuple):
    """A value and its interval; infinite where the value may have no end."""

    value: float
    low: float
    high: float


def standard(values: Array) -> tuple[Array, Array]:
    """Mean over seeds and problems at each point, and its standard error.

    Problems and seeds are both drawn: the error has the variance of seeds' mean over problems, and
    of problems' mean over seeds where there is more than one.
    """
    values = np.atleast_3d(values) if values.ndim < 3 else values
    seeds, problems, _ = values.shape
    variance = values.mean(0).var(0, ddof=1) / problems if problems > 1 else 0.0
    if seeds > 1:
        variance = variance + values.mean(1).var(0, ddof=1) / seeds
    return values.mean((0, 1)), np.sqrt(variance) + np.zeros(values.shape[2])


def seen(values: Array) -> Seen:
    """Mean and standard error of [seed, problem]."""
    mean, error = standard(values[..., None])
    return Seen(float(mean[0]), float(error[0]))


def highest(gold: Array) -> Array:
    """The point of each problem's peak, [problem]: that of the other half of the problems, so that
    looking for it is worth nothing."""
    problems = gold.shape[1]
    half = np.arange(problems) % 2
    found = np.zeros(problems, dtype=int)
    for own in (0, 1):
        others = gold[:, half != own] if problems > 1 else gold
        found[half == own] = int(others.mean((0, 1)).argmax())
    return found


def at_peak(gold: Array) -> Array:
    """Gold [seed, problem] where it is highest by the other half of the problems."""
    return np.take_along_axis(gold, highest(gold)[None, :, None], 2)[..., 0]


def lost(gold: Array) -> Array:
    """Gold at its peak less gold at the end, [seed, problem]."""
    return np.asarray(at_peak(gold) - gold[..., -1])


def redrawn(values: Array, draws: int = DRAWS) -> Array:
    """Means [draw, point] had other seeds and problems been drawn; the first is of these."""
    random = np.random.default_rng(0)
    seeds, problems, _ = values.shape
    found = [values.mean((0, 1))]
    for _ in range(draws):
        some = random.integers(seeds, size=seeds)
        own = random.integers(problems, size=problems)
        found.append(values[np.ix_(some, own)].mean((0, 1)))
    return np.stack(found)


@dataclass(frozen=True)
class Formed:
    """A form of gold over distances. ``r2``: of its fit. ``peak``: the distance of most gold and
    the gold there; ``told``: what a fit on nearer points foretells of the last one, which is
    ``FARTHER`` times as far at least; ``came``: what was measured there. Intervals are of 90%.
    """

    kind: Kind
    a: Between
    b: Between
    r2: Between
    peak: Between
    gold: Between
    nearer: float
    told: Between
    came: Seen


def formed(kind: Kind, distance: Array, values: Array) -> Formed | None:
    """A form fitted to gold less the first point's; None where nearer points are too few."""
    rise = values - values[..., :1]
    draws = redrawn(rise)
    last = distance == distance.max()
    return of_draws(kind, distance, draws, last, Seen(*(float(v[-1]) for v in standard(rise))))


def of_draws(kind: Kind, distance: Array, draws: Array, last: Array, came: Seen) -> Formed | None:
    """The same of draws [draw, point], the first of which is what was measured; ``last``: the
    points to foretell, whose mean ``came``."""
    off = distance > 0  # at 0 every form is 0
    near = off & (distance <= float(distance[last].mean()) / FARTHER)
    if near.sum() < 3:
        return None
    x, ys = distance[off], draws[:, off]
    whole, part = follow(kind, x, ys), follow(kind, distance[near], draws[:, near])
    peak = whole.peak
    return Formed(
        kind,
        between(whole.a),
        between(whole.b),
        between(r_squared(ys, whole.at(x))),
        between(peak),
        between(top(whole)),
        float(distance[near].max()),
        between(part.at(distance[last]).mean(1)),
        came,
    )


def top(fit: Followed) -> Array:
    """Gold at the peak, [draw]; infinite where there is none."""
    peak = fit.peak
    at = np.where(np.isfinite(peak), peak, 1.0)
    there = np.array([fit.at(at[[i]])[i, 0] for i in range(len(at))])
    return np.asarray(np.where(np.isfinite(peak), there, np.inf))


def between(values: Array) -> Between:
    """The first of the draws, and where 90% of the others lie."""
    low, high = (
        np.quantile(values[1:], share, method="nearest")
        for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    )
    return Between(float(values[0]), float(low), float(high))


def kept(gold: Array, points: Sequence[int] | Array) -> Array:
    """What stopping at a point keeps of the gain up to the peak of the mean curve, [one]."""
    mean = gold.mean((0, 1))
    gain = mean.max() - mean[0]
    return np.asarray((mean[np.asarray(points)] - mean[0]) / gain) if gain > 0 else np.ones(1)
