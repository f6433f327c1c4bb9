"""Ways to resist a proxy that is wrong, as scores to choose the best of n by.

Scores are [member, problem, reply], each member's on one scale; numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from upslope.scaling.forms import Array
from upslope.scaling.overoptimised import best_of_n, chances

DRAWS = 300  # of problems, for intervals
SLACK = 2.0  # standard errors by which audited gold must have fallen


def several(scores: Array, k: float) -> Mapping[str, Array]:
    """What an ensemble says by each of its rules (arXiv:2310.02743), [problem, reply]."""
    mean, spread = scores.mean(0), scores.std(0)
    return {
        "mean": mean,
        "worst": scores.min(0),
        f"mean - {k:g} deviation": mean - k * spread,
        f"mean - {k:g} variance": mean - k * spread**2,
    }


def without_length(scores: Array, lengths: Array) -> Array:
    """Scores [problem, reply] less what a line through a problem's lengths says of them."""
    apart = lengths - lengths.mean(1, keepdims=True)
    spread = (apart**2).sum()
    slope = (apart * scores).sum() / spread if spread > 0 else 0.0
    return np.asarray(scores - slope * apart)


def curves(scores: Array, gold: Array, ns: Sequence[int]) -> Array:
    """Gold of the best of n by each member alone, [member, problem, n]."""
    return np.stack([best_of_n(one, gold, ns) for one in scores])


def audited(score: Array, gold: Array, ns: Sequence[int], share: float, seed: int) -> int:
    """The place in ``ns`` that an audit of a share of the replies stops at.

    The audited ones, ranked among all, stand for those of like ranks. From one n to the next it
    goes on while gold has not fallen by more than ``SLACK`` standard errors over problems from its
    highest, and then goes back to that.
    """
    drawn = np.random.default_rng(seed).random(gold.shape) < share
    rank = score.argsort(1).argsort(1)
    flat = [chances(score.shape[1], n)[rank] * drawn for n in ns]
    best, highest = 0, -np.inf
    for place, weight in enumerate(flat):
        total = weight.sum()
        if total <= 0:
            break
        mean = float((weight * gold).sum() / total)
        error = float(np.sqrt((weight**2 * (gold - mean) ** 2).sum()) / total)
        if mean > highest:
            best, highest = place, mean
        elif highest - mean > SLACK * error:
            break
    return best
