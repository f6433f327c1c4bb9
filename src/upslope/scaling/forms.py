"""Scaling laws as plain functions: what a law's parameters are is its signature.

Compute is in FLOPs, sizes in parameters, data in tokens, losses in nats. Arguments may be arrays
that broadcast, and complex, which gives ``fit`` exact derivatives. Constants that a paper reports
are not defaults here: they are of its own data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Array = NDArray[Any]
Numbers = Array | float


def sigmoid(
    compute: Numbers, floor: Numbers, ceiling: Numbers, midpoint: Numbers, exponent: Numbers
) -> Array:
    """Reward of a run (ScaleRL, arXiv:2510.13786): from ``floor`` at no compute to ``ceiling``.

    Half of the gain is made at ``midpoint``; ``exponent`` says how steeply.
    """
    some = np.asarray(compute) > 0
    away = np.log(midpoint) - np.log(np.where(some, compute, 1.0))
    # 1 / (1 + (midpoint / compute) ** exponent), in a form that nothing overflows
    made = np.where(some, (1 - np.tanh(np.asarray(exponent) * away / 2)) / 2, 0.0)
    return np.asarray(floor + (ceiling - floor) * made)


def exponential(compute: Numbers, floor: Numbers, ceiling: Numbers, scale: Numbers) -> Array:
    """Saturating: the gain that is left falls by e with each ``scale`` of compute."""
    return np.asarray(ceiling - (ceiling - floor) * np.exp(-np.asarray(compute) / scale))


def power(compute: Numbers, ceiling: Numbers, gap: Numbers, exponent: Numbers) -> Array:
    """A power law with a bound: ``ceiling`` less ``gap`` / compute ** ``exponent``; compute > 0.

    With a negative ``gap`` it falls to a floor, as losses do.
    """
    return np.asarray(ceiling - gap * np.asarray(compute) ** (-np.asarray(exponent)))


def log_linear(compute: Numbers, intercept: Numbers, slope: Numbers) -> Array:
    """So much more with each e-fold of compute, without a bound; compute > 0."""
    return np.asarray(intercept + slope * np.log(compute))


def depth(steps: Numbers, scale: Numbers, exponent: Numbers) -> Array:
    """Training compute to master proofs of so many steps (arXiv:2605.06638)."""
    return np.asarray(scale * np.asarray(steps) ** exponent)


def learning_efficiency(
    size: Numbers, compute: Numbers, steepest: Numbers, half_size: Numbers, intercept: Numbers
) -> Array:
    """Log of 1 - pass@1 after RL of a model (arXiv:2509.25300); ``compute`` may be data instead.

    Its slope in log compute grows with size towards ``steepest``, half of it at ``half_size``; the
    intercept is a model's own.
    """
    slope = steepest / (1 + np.asarray(half_size) / size)
    return np.asarray(intercept - slope * np.log(compute))


def chinchilla(
    size: Numbers,
    tokens: Numbers,
    floor: Numbers,
    a: Numbers,
    b: Numbers,
    alpha: Numbers,
    beta: Numbers,
) -> Array:
    """Pretraining loss (arXiv:2203.15556): floor + a / size^alpha + b / tokens^beta."""
    by_size = a * np.asarray(size) ** (-np.asarray(alpha))
    return np.asarray(floor + by_size + b * np.asarray(tokens) ** (-np.asarray(beta)))


def kaplan(
    size: Numbers,
    tokens: Numbers,
    size_scale: Numbers,
    token_scale: Numbers,
    alpha: Numbers,
    beta: Numbers,
) -> Array:
    """Pretraining loss (arXiv:2001.08361), with ``alpha`` of size and ``beta`` of data."""
    by_size = (size_scale / np.asarray(size)) ** (np.asarray(alpha) / beta)
    return np.asarray((by_size + token_scale / np.asarray(tokens)) ** beta)


def effective_experts(experts: Numbers, start: Numbers, most: Numbers) -> Array:
    """Experts as they count: bounded by ``most``, and ``start`` where there is one."""
    added = np.asarray(experts) - 1 + 1 / (1 / np.asarray(start) - 1 / np.asarray(most))
    return np.asarray(1 / (1 / added + 1 / np.asarray(most)))


def routed(
    size: Numbers,
    experts: Numbers,
    a: Numbers,
    b: Numbers,
    c: Numbers,
    d: Numbers,
    start: Numbers,
    most: Numbers,
) -> Array:
    """Log loss of a routed model (Clark et al., arXiv:2202.01169) of a dense part of ``size``."""
    n, e = np.log(size), np.log(effective_experts(experts, start, most))
    return np.asarray(a * n + b * e + c * n * e + d)


def fine_grained(
    size: Numbers,
    tokens: Numbers,
    granularity: Numbers,
    floor: Numbers,
    a: Numbers,
    b: Numbers,
    g: Numbers,
    alpha: Numbers,
    beta: Numbers,
    gamma: Numbers,
) -> Array:
    """Loss of a mixture of fine experts (Krajewski et al., arXiv:2402.07871).

    ``granularity``: how many experts a dense layer's width is cut into.
    """
    finer = g * np.asarray(granularity) ** (-np.asarray(gamma)) + a
    by_size = finer * np.asarray(size) ** (-np.asarray(alpha))
    return np.asarray(floor + by_size + b * np.asarray(tokens) ** (-np.asarray(beta)))


def joint_experts(
    size: Numbers,
    tokens: Numbers,
    experts: Numbers,
    floor: Numbers,
    a: Numbers,
    b: Numbers,
    alpha: Numbers,
    beta: Numbers,
    gamma: Numbers,
    delta: Numbers,
    omega: Numbers,
    zeta: Numbers,
    start: Numbers,
    most: Numbers,
) -> Array:
    """Loss over active size, data and experts together (Ludziejewski et al., arXiv:2502.05172).

    The exponents of size and data change with the log of the experts; ``alpha`` and ``beta`` are
    negative.
    """
    e = effective_experts(experts, start, most)
    by_size = a * e**delta * np.asarray(size) ** (alpha + gamma * np.log(e))
    by_data = b * e**omega * np.asarray(tokens) ** (beta + zeta * np.log(e))
    return np.asarray(floor + by_size + by_data)


def overoptimised_best_of_n(distance: Numbers, a: Numbers, b: Numbers) -> Array:
    """Gold reward of the best of n by a proxy, over the untrained policy's (arXiv:2210.10760).

    ``distance``: the square root of the KL from that policy, in nats.
    """
    return np.asarray(distance * (a - b * np.asarray(distance)))


def overoptimised_rl(distance: Numbers, a: Numbers, b: Numbers) -> Array:
    """The same of a policy that was trained on the proxy by RL; 0 at no distance."""
    some = np.asarray(distance) != 0
    return np.asarray(distance * (a - b * np.log(np.where(some, distance, 1.0))))


def pass_at(k: Numbers, a: Numbers, b: Numbers) -> Array:
    """pass@k over problems whose chances of a right answer are Beta(a, b) (arXiv:2502.17578)."""
    b, k = np.asarray(b), np.asarray(k)
    missed = gammaln(b + k) + gammaln(a + b) - gammaln(b) - gammaln(a + b + k)
    return np.asarray(-np.expm1(missed))


def intrinsic_performance(
    size: Numbers,
    episodes: Numbers,
    size_scale: Numbers,
    episode_scale: Numbers,
    alpha: Numbers,
    gamma: Numbers,
    beta: Numbers,
) -> Array:
    """Least compute that reaches a model's score (Hilton et al., arXiv:2301.13442).

    A run's score in the unit in which it is a power law: use it where reward itself is none.
    """
    left = (size_scale / np.asarray(size)) ** alpha + (
        episode_scale / np.asarray(episodes)
    ) ** gamma
    return np.asarray(left ** (-1 / np.asarray(beta)))
