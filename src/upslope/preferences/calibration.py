"""How far a reward model can be trusted on pairs that it did not learn from: a report in numbers.

Accuracy with its interval, calibration, what length has to do with scores, and slices. It scores
nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upslope.estimates import Interval, interval
from upslope.types import UserError

Numbers = NDArray[np.float64]
BINS = 10
FEWEST = 8  # pairs below which nothing is said of a slice
HOTTEST = 100.0


class Bin(NamedTuple):
    """Pairs whose winner was foretold with about the same confidence."""

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Report:
    """``ece``: the mean distance of confidence and accuracy over bins; ``nll``: mean -log chance
    given to who won; ``bins``: the reliability table.

    ``length_score``: correlation of scores with length over all sides. ``length_ahead``: of how
    far a pair's chosen side is ahead with how much longer it is. ``chosen_longer``: the share of
    pairs in which that is so (ties half), which a model that only counts would get right.
    ``temperature``: scores over it are calibrated, fitted on half of the pairs; ``ece_scaled`` is
    of the other half.
    """

    pairs: int
    accuracy: Interval
    ece: float
    nll: float
    bins: tuple[Bin, ...]
    length_score: float
    length_ahead: float
    chosen_longer: float
    slices: Mapping[str, Mapping[str, tuple[int, Interval]]]
    temperature: float | None = None
    ece_scaled: float | None = None

    def row(self) -> dict[str, Any]:
        """In JSON's own types."""
        row = asdict(self)
        row["accuracy"] = self.accuracy._asdict()
        row["bins"] = [one._asdict() for one in self.bins]
        row["slices"] = {
            column: {
                value: {"pairs": count, "accuracy": seen._asdict()}
                for value, (count, seen) in found.items()
            }
            for column, found in self.slices.items()
        }
        return row


def report(
    scores: Numbers,
    lengths: Numbers,
    columns: Mapping[str, Sequence[str]],
    scaling: bool = False,
) -> Report:
    """What ``scores`` and ``lengths``, both [pair side] with the chosen side first, come to.

    ``columns``: a value of each pair by which accuracy is told apart. ``scaling``: whether to fit a
    temperature. Raises UserError for too few pairs, and for scores that are not finite.
    """
    if len(scores) < FEWEST:
        raise UserError(f"{len(scores)} pairs are too few to judge by: give at least {FEWEST}")
    if not np.isfinite(scores).all():
        raise UserError("a reward model's scores are not finite: train it again")
    ahead, longer = scores[:, 0] - scores[:, 1], lengths[:, 0] - lengths[:, 1]
    right = right_of(ahead)
    signs = {1.0: "the longer won", -1.0: "the shorter won", 0.0: "equal lengths"}
    sliced = {"length": [signs[float(s)] for s in np.sign(longer)], **columns}
    found, bins = reliability(ahead)
    temperature, scaled = None, None
    if scaling:
        temperature = fitted_temperature(ahead[::2])
        scaled = reliability(ahead[1::2] / temperature)[0]
    return Report(
        pairs=len(scores),
        accuracy=interval(right),
        ece=found,
        nll=nll(ahead),
        bins=bins,
        length_score=correlation(scores.ravel(), lengths.ravel()),
        length_ahead=correlation(ahead, longer),
        chosen_longer=float(right_of(longer).mean()),
        slices={name: by_value(right, values) for name, values in sliced.items()},
        temperature=temperature,
        ece_scaled=scaled,
    )


def right_of(ahead: Numbers) -> Numbers:
    """1 where the chosen side is ahead, 0 where it is behind, a half where neither is."""
    return (np.sign(ahead) + 1) / 2


def reliability(ahead: Numbers, bins: int = BINS) -> tuple[float, tuple[Bin, ...]]:
    """The expected calibration error, and its table over equal bins of confidence above 1/2.

    Confidence is the chance that the model gives to the side it prefers.
    """
    sure = 1 / (1 + np.exp(-np.abs(ahead)))
    place = np.minimum(((sure - 0.5) * 2 * bins).astype(int), bins - 1)
    right, table, off = right_of(ahead), [], 0.0
    for one in range(bins):
        own = place == one
        count = int(own.sum())
        if count:
            said, was = float(sure[own].mean()), float(right[own].mean())
            off += count / len(ahead) * abs(was - said)
            low = 0.5 + one / bins / 2
            table.append(Bin(low, low + 0.5 / bins, count, said, was))
    return off, tuple(table)


def nll(ahead: Numbers) -> float:
    """Mean -log of the chance given to the side that won."""
    return float(np.logaddexp(0, -ahead).mean())


def fitted_temperature(ahead: Numbers) -> float:
    """The temperature at which scores over it foretell best who won; at most ``HOTTEST``.

    The loss is convex in 1 / temperature; a golden-section search finds its least.
    """
    low, high, ratio = 1 / HOTTEST, HOTTEST, (math.sqrt(5) - 1) / 2
    a, b = math.log(low), math.log(high)
    while b - a > 1e-6:
        x, y = b - ratio * (b - a), a + ratio * (b - a)
        if nll(ahead * math.exp(x)) <= nll(ahead * math.exp(y)):
            b = y
        else:
            a = x
    return math.exp(-(a + b) / 2)


def correlation(a: Numbers, b: Numbers) -> float:
    """Pearson's; 0 where one of them never changes."""
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def by_value(right: Numbers, values: Sequence[str]) -> dict[str, tuple[int, Interval]]:
    """Pairs and accuracy for each value that ``FEWEST`` pairs or more have, the most first."""
    given = np.array(values)
    kinds, counts = np.unique(given, return_counts=True)
    order = [kinds[i] for i in np.argsort(-counts, kind="stable") if counts[i] >= FEWEST]
    return {
        str(kind): (int((given == kind).sum()), interval(right[given == kind])) for kind in order
    }
