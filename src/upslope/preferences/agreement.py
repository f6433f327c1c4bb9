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


def alpha(ratings: Numbers, metric: Metric, seed: int = 0, draws: int = DRAWS) -> Alpha | None:
    """Krippendorff's alpha and its 95% bootstrap interval over units; None where no unit has two
    values, or only one value was ever given, so that nothing is known."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = counted(ratings, values)
    counts = counts[counts.sum(1) > 1]
    if len(values) < 2 or not len(counts):
        return None
    found = _alpha(counts, values, metric)
    if found is None:
        return None
    draw = np.random.default_rng(seed_of("alpha", seed))
    again = (
        _alpha(counts[draw.integers(0, len(counts), len(counts))], values, metric)
        for _ in range(draws)
    )
    # A draw in which one value is all there is has no disagreement in it.
    spread = [1.0 if one is None else one for one in again]
    low, high = np.quantile(spread, (0.025, 0.975)) if spread else (found, found)
    return Alpha(Interval(found, float(low), float(high)), len(counts), int(counts.sum()))


def counted(ratings: Numbers, values: Numbers) -> Numbers:
    """[unit value]: how many coders gave it."""
    return np.stack([(ratings == value).sum(0) for value in values], 1).astype(float)


def distances(values: Numbers, totals: Numbers, metric: Metric) -> Numbers:
    """[value value], squared: 1 where they differ, by ranks, or by size.

    Of ranks: all that was given from one value to the other, both counted half.
    """
    if metric == "nominal":
        return (values[:, None] != values[None]).astype(float)
    if metric == "interval":
        return (values[:, None] - values[None]) ** 2
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle[None]) ** 2


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


def _alpha(counts: Numbers, values: Numbers, metric: Metric) -> float | None:
    """1 - observed over expected disagreement; None where nothing is expected."""
    size, totals = counts.sum(1), counts.sum(0)
    far, n = distances(values, totals, metric), float(counts.sum())
    within = np.einsum("ui,ij,uj->u", counts, far, counts) / (size - 1)
    expected = float(totals @ far @ totals) / (n - 1)
    return 1 - float(within.sum()) / expected if expected > 0 else None
