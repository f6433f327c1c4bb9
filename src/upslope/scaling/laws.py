"""Fits of laws that are no curve of one run: over sizes, over data, over depth, over samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, logsumexp

from upslope.scaling import forms
from upslope.scaling.forms import Array
from upslope.types import UserError

HUBER = 1e-3


def beta_binomial(asked: Sequence[int], right: Sequence[int]) -> tuple[float, float]:
    """``a`` and ``b`` of ``forms.pass_at`` most likely for so many right answers of those asked.

    UserError where all problems are alike, all right or all wrong: no such law has a maximum.
    """
    n, c = np.asarray(asked, dtype=float), np.asarray(right, dtype=float)
    if (c == 0).all() or (c == n).all():
        raise UserError("all answers are equally right, which no spread of problems explains")

    def loss(logs: Array) -> float:
        a, b = np.exp(logs)
        return -float((betaln(a + c, b + n - c) - betaln(a, b)).sum())

    starts = product((-1.5, 0.0, 1.5), repeat=2)
    found = min(
        (minimize(loss, start, method="Nelder-Mead") for start in starts), key=lambda f: f.fun
    )
    a, b = np.exp(found.x)
    return float(a), float(b)


def beta_by_moments(once: Array, k: int, best: Array) -> tuple[Array, Array]:
    """``a`` and ``b`` of ``forms.pass_at`` with these pass@1 and pass@``k``, k > 1, by bisection.

    Where ``best`` is out of what any spread of problems gives, the nearest spread.
    """
    mean = np.clip(np.asarray(once, dtype=float), 1e-6, 1 - 1e-6)
    low, high = np.full(mean.shape, -14.0), np.full(mean.shape, 14.0)
    for _ in range(60):
        total = np.exp((low + high) / 2)
        less = forms.pass_at(k, mean * total, (1 - mean) * total) < best
        low, high = np.where(less, np.log(total), low), np.where(less, high, np.log(total))
    total = np.exp((low + high) / 2)
    return mean * total, (1 - mean) * total


def chinchilla_by_huber(size: Array, tokens: Array, loss: Array) -> Mapping[str, float]:
    """``forms.chinchilla`` as its source fits it (arXiv:2203.15556): Huber's loss of log losses.

    L-BFGS from their grid of starts. ``fit.LAWS["chinchilla"]`` by ``fit.solve`` is exact where
    there is no noise and needs no starts (arXiv:2603.22339).
    """
    n, d, y = np.log(size), np.log(tokens), np.log(loss)

    def residual(p: Array) -> tuple[Array, Array]:
        terms = np.stack([p[0] - p[3] * n, p[1] - p[4] * d, np.broadcast_to(p[2], n.shape)])
        total = logsumexp(terms, axis=0)
        share = np.exp(terms - total)
        return total - y, np.stack([share[0], share[1], share[2], -share[0] * n, -share[1] * d])

    def huber(p: Array) -> tuple[float, Array]:
        r, slopes = residual(p)
        inside = np.abs(r) <= HUBER
        value = np.where(inside, r**2 / 2, HUBER * (np.abs(r) - HUBER / 2))
        # In units of its own width: L-BFGS stops at absolute tolerances.
        pull = np.where(inside, r, HUBER * np.sign(r))
        return float(value.sum()) / HUBER**2, slopes @ pull / HUBER**2

    starts = product(
        (0.0, 10.0, 20.0), (0.0, 10.0, 20.0), (-1.0, 0.0, 1.0), (0.0, 1.0, 2.0), (0.0, 1.0, 2.0)
    )
    found = min(
        (minimize(huber, start, jac=True, method="L-BFGS-B") for start in starts),
        key=lambda f: float(f.fun),
    )
    a, b, floor, alpha, beta = found.x
    known = {"floor": np.exp(floor), "a": np.exp(a), "b": np.exp(b), "alpha": alpha, "beta": beta}
    return {name: float(value) for name, value in known.items()}


def learning_efficiency(
    sizes: Sequence[float], compute: Sequence[Array], log_loss: Sequence[Array]
) -> Mapping[str, float | tuple[float, ...]]:
    """``forms.learning_efficiency`` over models, each with its own intercept, all of equal weight.

    At a half size given the rest is linear, so only that is searched, around the sizes there are.
    """
    if len(sizes) < 3:
        raise UserError(f"a law over sizes needs at least 3 of them, not {len(sizes)}")
    weights = np.concatenate([np.full(len(c), len(c) ** -0.5) for c in compute])
    own = np.repeat(np.arange(len(sizes)), [len(c) for c in compute])
    logs, y = np.log(np.concatenate(compute)), np.concatenate(log_loss)

    def fitted(half: float) -> tuple[float, Array]:
        slopes = -logs / (1 + half / np.asarray(sizes)[own])
        columns = np.column_stack([slopes, own[:, None] == np.arange(len(sizes))])
        values = np.linalg.lstsq(columns * weights[:, None], y * weights, rcond=None)[0]
        return float((((columns @ values - y) * weights) ** 2).sum()), values

    low, high = np.log(min(sizes)) - 7, np.log(max(sizes)) + 7
    for _ in range(12):
        tried = np.linspace(low, high, 25)
        best = tried[np.argmin([fitted(float(np.exp(t)))[0] for t in tried])]
        step = tried[1] - tried[0]
        low, high = best - step, best + step
    steepest, *intercepts = fitted(float(np.exp(best)))[1]
    return {
        "steepest": float(steepest),
        "half_size": float(np.exp(best)),
        "intercepts": tuple(map(float, intercepts)),
    }


def depth(steps: Array, compute: Array) -> tuple[float, float]:
    """``forms.depth``'s scale and exponent: a line through the logarithms (arXiv:2605.06638)."""
    exponent, scale = np.polyfit(np.log(steps), np.log(compute), 1)
    return float(np.exp(scale)), float(exponent)


def beta_binomial_curve(asked: Sequence[int], right: Sequence[int], k: Array) -> Array:
    """pass@k for any k, also beyond the answers there are."""
    return forms.pass_at(k, *beta_binomial(asked, right))
