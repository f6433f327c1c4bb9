"""How far a proxy of a reward can be followed: the best of n by it, and where the gold one peaks.

The forms are those of Gao et al. (arXiv:2210.10760), over d, the square root of the KL from the
policy that was there before. Rewards are differences to that policy's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaln

from upslope.scaling.fit import LAWS, solve
from upslope.scaling.forms import Array
from upslope.types import UserError

Kind = Literal["best_of_n", "rl"]
FORMS = {kind: LAWS[f"overoptimised_{kind}"] for kind in ("best_of_n", "rl")}


def kl_best_of_n(n: Array | float) -> Array:
    """KL in nats of the best of ``n`` from the policy that they are drawn from: exactly
    log n - (n - 1) / n, where no two have the same score (arXiv:2210.10760)."""
    n = np.asarray(n, dtype=float)
    return np.asarray(np.log(n) - (n - 1) / n)


def best_of_n(score: Array, value: Array, ns: Sequence[int]) -> Array:
    """Mean ``value`` of the best of n by ``score``, [problem, n], from ``[problem, reply]`` each.

    Over all sets of n replies at once, which has no bias and less noise than any one of them; where
    scores are equal, any of the equals is the best. UserError where n is more than there are.
    """
    score, value = np.atleast_2d(score), np.atleast_2d(value)
    size = score.shape[1]
    if max(ns) > size:
        raise UserError(f"the best of {max(ns)} needs as many replies to a problem, not {size}")
    order = score.argsort(1, kind="stable")
    ranked = np.take_along_axis(score, order, 1)
    sorted_values = _over_equals(ranked, np.take_along_axis(value, order, 1))
    return np.asarray(sorted_values @ np.stack([chances(size, n) for n in ns], 1))


def chances(size: int, n: int) -> Array:
    """That a reply of each rank, the lowest first, is the best of ``n`` of ``size``, [rank].

    C(rank - 1, n - 1) / C(size, n).
    """
    rank = np.arange(1, size + 1)
    some = rank >= n
    below = np.where(some, rank - n, 0)
    logs = gammaln(rank) - gammaln(n) - gammaln(below + 1)
    logs -= gammaln(size + 1) - gammaln(n + 1) - gammaln(size - n + 1)
    return np.asarray(np.where(some, np.exp(logs), 0.0))


def _over_equals(ranked: Array, values: Array) -> Array:
    """Values with the mean over equal scores in place of each, row by row."""
    starts = np.ones(ranked.shape, dtype=bool)
    starts[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    run = (starts.cumsum(1) - 1) + ranked.shape[1] * np.arange(len(ranked))[:, None]
    sums = np.bincount(run.ravel(), values.ravel(), minlength=ranked.size)
    counts = np.bincount(run.ravel(), minlength=ranked.size)
    return np.asarray((sums / np.maximum(counts, 1))[run])


@dataclass(frozen=True)
class Followed:
    """A form fitted to gold rewards over distances: a draw in each entry of ``a`` and ``b``."""

    kind: Kind
    a: Array
    b: Array

    def at(self, distance: Array) -> Array:
        """Gold reward over the first policy's, [draw, point]."""
        return FORMS[self.kind].form(np.asarray(distance)[None], self.a[:, None], self.b[:, None])

    @property
    def peak(self) -> Array:
        """The distance of the most gold reward, [draw]; infinite where it never falls."""
        with np.errstate(over="ignore", divide="ignore"):
            ratio = self.a / self.b
            far = ratio / 2 if self.kind == "best_of_n" else np.exp(ratio - 1)
        return np.asarray(np.where(self.b > 0, far, np.inf))


def follow(kind: Kind, distance: Array, gold: Array, weights: Array | None = None) -> Followed:
    """The form of ``gold`` [draw, point] over ``distance`` [point], by least squares."""
    found = solve(FORMS[kind], [np.asarray(distance, dtype=float)], gold, weights)
    return Followed(kind, found.params["a"], found.params["b"])


def r_squared(gold: Array, fitted: Array) -> Array:
    """The share of the variance over points that a fit explains, [draw]."""
    gold, fitted = np.atleast_2d(gold), np.atleast_2d(fitted)
    rest = ((gold - fitted) ** 2).sum(1)
    return np.asarray(1 - rest / ((gold - gold.mean(1, keepdims=True)) ** 2).sum(1))
