"""How far annotators agree: Krippendorff's alpha with a bootstrap interval, and each with the rest.

Pure functions of ratings [coder unit] in which NaN is a value that is missing (Krippendorff,
"Computing Krippendorff's Alpha-Reliability", 2011). Which ratings there are is in ``answered``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from upslope.estimates import Interval
from upslope.seeds import seed_of

Numbers = NDArray[np.float64]
Metric = Literal["nominal", "ordinal", "interval"]
DRAWS = 1000


@dataclass(frozen=True)
class Alpha:
    """1 is full agreement, 0 what chance gives; below 0 it is worse. ``units`` that two or more
    coders rated, ``values`` in them."""

    alpha: Interval
    units: int
    values: int


def alpha(
    ratings: Numbers,
    metric: Metric,
    seed: int = 0,
    draws: int = DRAWS,
    of: Sequence[int] | None = None,
) -> Alpha | None:
    """Krippendorff's alpha and its 95% bootstrap interval; None where no unit has two values, or
    only one value was ever given, so that nothing is known.

    ``of``: the question of each unit; those of one question are drawn together.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = counted(ratings, values)
    paired = counts.sum(1) > 1
    questions = np.arange(len(counts)) if of is None else np.unique(of, return_inverse=True)[1]
    counts, questions = counts[paired], np.unique(questions[paired], return_inverse=True)[1]
    found = _alpha(counts, values, metric, np.ones(len(counts)))
    if found is None:
        return None
    many = int(questions.max()) + 1
    draw = np.random.default_rng(seed_of("alpha", seed))
    times = draw.multinomial(many, np.full(many, 1 / many), draws)
    spread = [_alpha(counts, values, metric, own[questions].astype(float)) for own in times]
    # A draw in which only one value was ever given says nothing.
    told = [one for one in spread if one is not None]
    low, high = np.quantile(told, (0.025, 0.975)) if told else (found, found)
    return Alpha(Interval(found, float(low), float(high)), len(counts), int(counts.sum()))


def counted(ratings: Numbers, values: Numbers) -> Numbers:
    """[unit value]: how many coders gave it."""
    given: Numbers = (ratings[:, :, None] == values).sum(0).astype(float)
    return given


def distances(values: Numbers, totals: Numbers, metric: Metric) -> Numbers:
    """[value value], squared: 1 where they differ, by ranks, or by size.

    Of ranks: all that was given from one value to the other, both counted half.
    """
    if metric == "nominal":
        differ: Numbers = (values[:, None] != values[None]).astype(float)
        return differ
    if metric == "interval":
        return np.square(values[:, None] - values[None])
    middle = np.cumsum(totals) - totals / 2
    return np.square(middle[:, None] - middle[None])


def with_rest(ratings: Numbers, metric: Metric) -> Sequence[float]:
    """For each coder 1 less how far the values of others lie from theirs over what chance gives; 1
    is full agreement with all others. NaN where they share no unit, or nothing ever differs."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = counted(ratings, values)
    paired = counts[counts.sum(1) > 1]
    totals = paired.sum(0)
    far, n = distances(values, totals, metric), float(totals.sum())
    chance = float(totals @ far @ totals) / (n * (n - 1)) if n > 1 else 0.0
    found = list[float]()
    for own in ratings:
        seen = ~np.isnan(own) & (counts.sum(1) > 1)
        if not seen.any() or chance == 0:
            found.append(float("nan"))
            continue
        at = np.searchsorted(values, own[seen])
        others = counts[seen].copy()
        others[np.arange(len(at)), at] -= 1
        apart = (others * far[at]).sum(1) / others.sum(1)
        found.append(1 - float(apart.mean()) / chance)
    return found


def _alpha(counts: Numbers, values: Numbers, metric: Metric, times: Numbers) -> float | None:
    """1 - observed over expected disagreement, units counted so many ``times``; None where nothing
    is expected."""
    size, totals = counts.sum(1), times @ counts
    far, n = distances(values, totals, metric), float(totals.sum())
    expected = float(totals @ far @ totals) / (n - 1) if n > 1 else 0.0
    within = np.einsum("ui,ij,uj->u", counts, far, counts) / np.maximum(size - 1, 1)
    return 1 - float(times @ within) / expected if expected > 0 else None
