"""What may be said of repeated answers: values, one a problem, their mean's interval, paired tests.

Pure functions of numbers. Which answers there are, and when one is right, is in ``evaluate.py``.
Problems are the independent units everywhere, so every interval is clustered by problem.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from upslope.types import UserError


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """B less A over the same problems: its mean with a 95% interval, and the test's ``p``.

    ``smallest``: the difference that such a comparison sees (p < 0.05) in 4 of 5 cases.
    """

    mean: float
    low: float
    high: float
    p: float
    smallest: float
    problems: int


def pass_at(k: int, right: Sequence[float]) -> float:
    """The best of ``k`` of a problem's answers, on average over all choices of ``k``: unbiased.

    With ``c`` of ``n`` right it is 1 - C(n - c, k) / C(n, k) (arXiv:2107.03374).
    """
    return float(np.dot(_largest(k, len(right)), np.sort(right)))


def worst_at(k: int, right: Sequence[float]) -> float:
    """The worst of ``k``, likewise: C(c, k) / C(n, k), the chance that all of ``k`` are right."""
    return float(np.dot(_largest(k, len(right))[::-1], np.sort(right)))


@cache
def _largest(k: int, n: int) -> np.ndarray:
    """For each of ``n`` values in order, the share of choices of ``k`` whose largest it is."""
    if not 1 <= k <= n:
        raise UserError(
            f"at k={k} at least {k} graded answers of a problem are needed and there are {n}: "
            "sample more, or lower k to from 1 up"
        )
    return np.array([math.comb(i, k - 1) / math.comb(n, k) for i in range(n)])


def majority_at(k: int, said: Sequence[str], right: Sequence[float]) -> float:
    """How right the answer said most often among ``k`` is, on average over all choices of ``k``.

    Exact. Tied answers share the vote evenly; "" is no answer and has no vote, and where nobody
    votes nothing is right. Answers count as one where they are spelt the same.
    """
    _largest(k, len(said))  # refuses a k that is too large
    votes = Counter(answer for answer in said if answer)
    worth = Counter[str]()
    for answer, value in zip(said, right, strict=True):
        worth[answer] += value  # type: ignore[assignment]
    won = 0.0
    for answer, count in votes.items():
        if worth[answer]:
            others = list((votes - Counter({answer: count})).values())
            silent = len(said) - votes.total()
            won += worth[answer] / count * _wins(k, count, others, silent)
    return won / math.comb(len(said), k)


def _wins(k: int, own: int, others: Sequence[int], silent: int) -> float:
    """In how many choices of ``k`` the answer said ``own`` times wins; a tie of j counts 1/j."""
    won = 0.0
    for votes in range(1, min(own, k) + 1):
        left = k - votes
        # ways[j, m]: choices of m other samples where j answers have as many votes and none more.
        ways = np.zeros((left // votes + 1, left + 1))
        ways[0] = [math.comb(silent, m) for m in range(left + 1)]
        for count in others:
            more = np.zeros_like(ways)
            for m in range(min(count, votes, left) + 1):
                tie = int(m == votes)
                kept = ways[: len(ways) - tie, : left + 1 - m]
                more[tie:, m:] += math.comb(count, m) * kept
            ways = more
        shared = ways[:, left] / np.arange(1, len(ways) + 1)
        won += math.comb(own, votes) * float(shared.sum())
    return won


def interval(per_problem: Sequence[float] | np.ndarray) -> Interval:
    """Mean and 95% interval of values in [0, 1], one a problem, so clustered by problem.

    Wilson's interval with the number of trials that the variance between problems is worth: right
    at 0 and 1, where a normal interval has no width, and no narrower for samples of one problem
    that agree. Values between 0 and 1 have a variance of their own to be estimated, which Student's
    t allows for. Outside [0, 1] it is the t interval. From 50 problems on 93 to 97% of intervals
    hold the truth; of 10 problems with rare right answers, all or nothing, it is 88%.
    """
    values = np.asarray(per_problem, dtype=float)
    n, mean = len(values), float(np.mean(values))
    variance = float(np.var(values, ddof=1)) / n if n > 1 else 0.0
    if values.min() < 0 or values.max() > 1:  # rewards of an env that names no accuracy
        return t_interval(values)
    whole = n == 1 or bool(np.all((values == 0) | (values == 1)))
    z = _reach(0.95, 0 if whole else n - 1)
    binomial = mean * (1 - mean)
    trials = binomial / variance if variance > 0 and binomial > 0 else float(n)
    shrink = 1 + z**2 / trials
    centre = (mean + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(binomial / trials + z**2 / (4 * trials**2))
    return Interval(mean, max(0.0, centre - half), min(1.0, centre + half))


def t_interval(per_problem: Sequence[float] | np.ndarray) -> Interval:
    """Mean and 95% t interval of values of any size, one a problem."""
    values = np.asarray(per_problem, dtype=float)
    n, mean = len(values), float(np.mean(values))
    variance = float(np.var(values, ddof=1)) / n if n > 1 else 0.0
    half = _reach(0.95, max(1, n - 1)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def paired(a: Sequence[float], b: Sequence[float], step: float = 0.0) -> Difference:
    """Student's paired test of B less A, one value a problem, in the same order.

    ``step`` is the least by which a problem's value can change: 1 / samples for accuracies. The
    test then counts one more problem that speaks as much for A as for B, by a step, so that few
    differences, or none, are not taken for certainty (after Bonett and Price, who count two:
    doi:10.3102/1076998611411915).
    """
    away = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    n = len(away)
    if n < 2:
        raise UserError("a comparison needs at least 2 problems that both could be graded on")
    count = n + 1 if step else n
    centre = float(away.sum()) / count
    squares = float(np.square(away - centre).sum()) + (step**2 + centre**2 if step else 0.0)
    error = math.sqrt(squares / (count - 1) / count)
    p = 1 - _within(abs(centre) / error, n - 1) if error > 0 else float(centre == 0)
    half = _reach(0.95, n - 1) * error
    # One-sided 80% power: half of the 60% that lie within.
    smallest = (_reach(0.95, n - 1) + _reach(0.6, n - 1)) * error * count / n
    return Difference(float(away.mean()), centre - half, centre + half, p, smallest, n)


def _within(t: float, df: int) -> float:
    """How often Student's t with ``df`` degrees of freedom lies in [-t, t]; normal at ``df`` 0.

    The exact series of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    if df == 0:
        return math.erf(t / math.sqrt(2))
    angle, odd = math.atan(t / math.sqrt(df)), df % 2
    over = np.arange(1 + odd, df - 2, 2)
    terms = 1 + float(np.cumprod(over / (over + 1) * math.cos(angle) ** 2).sum())
    if not odd:
        return math.sin(angle) * terms
    return 2 / math.pi * (angle + (math.sin(2 * angle) / 2 * terms if df > 1 else 0.0))


@cache
def _reach(share: float, df: int) -> float:
    """The t with ``_within(t, df) == share``, to 1e-12 of itself."""
    low, high = 0.0, 1.0
    while _within(high, df) < share:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < share else (low, middle)
    return high
