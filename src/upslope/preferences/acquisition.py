"""Which comparisons would teach a reward model most: pure functions of what models say of them.

A question is one comparison, or several where more than two replies are rated or ranked; it is
worth what these are worth together. Whose states and scores they are is in ``proposing``.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from upslope.preferences.agreement import Numbers
from upslope.seeds import seed_of

By = Literal["random", "uncertainty", "disagreement", "information"]
WAYS: tuple[By, ...] = get_args(By)
Places = NDArray[np.int64]


def entropy(chance: Numbers) -> Numbers:
    """Of a coin with that chance, in nats."""
    clear = np.clip(chance, 1e-12, 1 - 1e-12)
    return -clear * np.log(clear) - (1 - clear) * np.log1p(-clear)


def uncertainty(ahead: Numbers) -> Numbers:
    """Entropy of who wins [comparison], by the mean chance over members [member comparison]."""
    return entropy(sigmoid(ahead).mean(0))


def disagreement(ahead: Numbers) -> Numbers:
    """What an answer would say about which member is right (BALD, arXiv:1112.5745): entropy of the
    mean chance less the members' mean entropy [comparison], of [member comparison]."""
    mean: Numbers = entropy(sigmoid(ahead)).mean(0)
    return np.maximum(uncertainty(ahead) - mean, 0.0)


def spread(worth: Numbers, count: int, seed: int) -> list[int]:
    """``count`` questions [question], drawn by what they are worth without putting back, the most
    likely first: the best alone are alike (arXiv:2106.12059)."""
    draw = np.random.default_rng(seed_of("spread", seed))
    rank = np.log(np.maximum(worth, 1e-300)) + draw.gumbel(size=len(worth))
    return [int(i) for i in np.argsort(-rank, kind="stable")[:count]]


def cover_of(apart: Numbers, weight: Numbers, prior: float) -> Numbers:
    """How unsure a reward model's last layer is [hidden hidden]: the inverse of ``prior`` plus its
    Fisher information.

    A comparison of states ``apart`` [comparison hidden] whose winner has the chance p adds
    p (1 - p), its ``weight``, times their outer product (arXiv:2502.04354).
    """
    seen: Numbers = (apart * weight[:, None]).T @ apart
    told: Numbers = prior * np.eye(apart.shape[1]) + (seen + seen.T) / 2
    return np.linalg.inv(told).astype(np.float64)


def informative(
    cover: Numbers, apart: Numbers, weight: Numbers, of: Places, count: int
) -> list[tuple[int, float]]:
    """``count`` questions, each the one that adds most to those before it, and what it adds to the
    log determinant of the information, in nats (D-optimal design).

    ``of``: the question of each comparison. Greedy, so that questions that are alike are not asked
    together: what one teaches the other would not. Several comparisons of one question are worth
    their sum, which is a little more than they add.
    """
    chosen = list[tuple[int, float]]()
    seen = apart @ cover  # [comparison hidden], kept up to date
    spreads = np.einsum("ch,ch->c", seen, apart)
    left = np.ones(int(of.max()) + 1 if len(of) else 0, bool)
    while left.any() and len(chosen) < count:
        gains = together(np.log1p(weight * np.maximum(spreads, 0.0)), of)
        best = int(np.argmax(np.where(left, gains, -1.0)))
        chosen.append((best, float(gains[best])))
        left[best] = False
        for row in np.flatnonzero(of == best):
            # Sherman and Morrison's update of every comparison's variance.
            along = seen @ apart[row]
            share = weight[row] / (1 + weight[row] * along[row])
            spreads = spreads - share * along**2
            seen = seen - share * np.outer(along, seen[row])
    return chosen


def sigmoid(x: Numbers) -> Numbers:
    """The logistic function."""
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def together(worth: Numbers, of: Places) -> Numbers:
    """Of comparisons, as their questions': the sum [question]."""
    return np.bincount(of, worth).astype(float)
