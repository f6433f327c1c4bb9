"""Fits of a form to points, many draws at once, by variable projection and then Newton's steps.

A form that is linear in some of its parameters leaves only the others to be searched: on a grid
scaled to the data every point is a linear least-squares problem, solved for all draws together. The
best point is then refined with exact derivatives. What intervals mean is ``curves``'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from upslope.scaling import forms
from upslope.scaling.forms import Array
from upslope.types import UserError

Params = dict[str, Array]  # by name, a number for each draw
ROUNDS = 100
TOGETHER = 64  # draws searched at a time: bounds memory
FARTHEST = 20.0  # that a positive parameter's logarithm goes from its grid point
LEAST = 1e-12  # damping
TINY = 1e-30  # of a complex step: no difference is taken, so none is lost


@dataclass(frozen=True)
class Law:
    """A form with what a search needs: which parameters are ``linear``, and grids of the others.

    The first ``inputs`` arguments come from data; parameters that are not linear are positive.
    ``from_zero``: whether the form is finite at no compute.
    """

    form: Callable[..., Array]
    inputs: int
    linear: tuple[str, ...]
    grid: Callable[..., Mapping[str, Array]]
    from_zero: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Its parameters, in the order of the signature."""
        return tuple(inspect.signature(self.form).parameters)[self.inputs :]


def _spread(x: Array, below: float, above: float, count: int) -> Array:
    """Log-spaced from ``below`` the least positive value to ``above`` the largest."""
    x = np.asarray(x)[np.asarray(x) > 0]
    return np.geomspace(below * float(x.min()), above * float(x.max()), count)


EXPONENTS = np.geomspace(0.1, 12, 40)
CURVES = {
    "sigmoid": Law(
        forms.sigmoid,
        1,
        ("floor", "ceiling"),
        lambda x: {"midpoint": _spread(x, 0.3, 30, 60), "exponent": EXPONENTS},
    ),
    "exponential": Law(
        forms.exponential, 1, ("floor", "ceiling"), lambda x: {"scale": _spread(x, 0.1, 30, 200)}
    ),
    "power": Law(forms.power, 1, ("ceiling", "gap"), lambda x: {"exponent": EXPONENTS}, False),
    "log_linear": Law(forms.log_linear, 1, ("intercept", "slope"), lambda x: {}, False),
}
LAWS = {
    "chinchilla": Law(
        forms.chinchilla,
        2,
        ("floor", "a", "b"),
        lambda n, d: {"alpha": np.linspace(0.02, 1.5, 60), "beta": np.linspace(0.02, 1.5, 60)},
    ),
    "overoptimised_best_of_n": Law(
        forms.overoptimised_best_of_n, 1, ("a", "b"), lambda distance: {}
    ),
    "overoptimised_rl": Law(forms.overoptimised_rl, 1, ("a", "b"), lambda distance: {}),
}


@dataclass(frozen=True)
class Solved:
    """Parameters by name, a value for each draw, and each draw's weighted squared error."""

    law: Law
    params: Params
    error: Array

    def at(self, *inputs: Array | float) -> Array:
        """Predictions [draw, point]; inputs are [point], or [draw, point] for each draw its own."""
        arrays = [np.atleast_2d(np.asarray(x, dtype=float)) for x in inputs]
        return self.law.form(*arrays, *[self.params[n][:, None] for n in self.law.names])


def solve(
    law: Law,
    inputs: Sequence[Array],
    ys: Array,
    weights: Array | None = None,
    fixed: Mapping[str, Array | float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Solved:
    """Least squares of each row of ``ys`` [draw, point]; ``weights`` [point] are 1 / variance.

    ``fixed`` parameters, a number or one for each draw, are not searched. A linear parameter that
    leaves its ``bounds`` is set to the bound that it left, and the others are fitted again.
    """
    ys = np.atleast_2d(np.asarray(ys, dtype=float))
    draws, points = ys.shape
    root = np.ones(points) if weights is None else np.sqrt(np.asarray(weights, dtype=float))
    known = {
        k: np.broadcast_to(np.asarray(v, dtype=float), draws) for k, v in (fixed or {}).items()
    }
    free = [n for n in law.names if n not in known]
    if len(free) > points:
        raise UserError(
            f"{points} points cannot tell {len(free)} parameters ({', '.join(free)}): give more"
        )
    start = _searched(law, inputs, ys, root, known)
    found = _refined(law, inputs, ys, root, start, free)
    for name, (low, high) in (bounds or {}).items():
        if name in known:
            continue
        value = found.params[name]
        out = ~((value >= low) & (value <= high))
        if out.any():
            at = {k: v[out] for k, v in known.items()} | {name: np.clip(value[out], low, high)}
            again = solve(law, inputs, ys[out], weights, at)
            for key, values in again.params.items():
                found.params[key][out] = values
            found.error[out] = again.error
    return found


def _searched(law: Law, inputs: Sequence[Array], ys: Array, root: Array, known: Params) -> Params:
    """The best grid point of each draw, with the linear parameters that are best there."""
    axes = {k: v for k, v in law.grid(*inputs).items() if k not in known}
    still = {k: v[:1, None] for k, v in known.items() if k not in law.linear}
    if any(np.ptp(known[name]) > 0 for name in still):
        raise ValueError("a parameter that is not linear is fixed at one value for all draws")
    grid = np.array(list(product(*axes.values())), dtype=float)
    basis = _basis(law, inputs, still | {n: grid[:, i, None] for i, n in enumerate(axes)}, root)
    free = [n for n in law.linear if n not in known]
    held = {n: values for n, values in known.items() if n in law.linear}
    empty = np.empty((len(grid), len(root), 0))
    q, r = np.linalg.qr(np.stack([basis[n] for n in free], -1) if free else empty)
    best, found = np.empty(len(ys), dtype=int), np.empty((len(ys), len(free)))
    for rows in np.array_split(np.arange(len(ys)), -(-len(ys) // TOGETHER)):
        rest = (ys[rows] * root)[None]  # [grid, draw, point]; [1, draw, point] with none held
        for name, values in held.items():
            rest = rest - values[rows, None] * basis[name][:, None]
        spanned = rest @ q
        best[rows] = ((rest**2).sum(-1) - (spanned**2).sum(-1)).argmin(0)
        picked = spanned[best[rows], np.arange(len(rows))][..., None]
        found[rows] = (np.linalg.pinv(r[best[rows]]) @ picked)[..., 0]
    params = {k: v.copy() for k, v in known.items()}
    params |= {name: grid[best, i] for i, name in enumerate(axes)}
    return params | dict(zip(free, found.T, strict=True))


def _basis(law: Law, inputs: Sequence[Array], at: Params, root: Array) -> Params:
    """What each linear parameter multiplies, [grid, point], under the points' weights."""
    rows = [np.asarray(x, dtype=float)[None] for x in inputs]
    zero = dict.fromkeys(law.linear, 0.0)
    values = {n: law.form(*rows, *[(zero | {n: 1.0} | at)[m] for m in law.names]) for n in zero}
    size = max([1, *map(len, at.values())])
    return {n: np.broadcast_to(v * root, (size, len(root))) for n, v in values.items()}


def _refined(
    law: Law, inputs: Sequence[Array], ys: Array, root: Array, params: Params, free: Sequence[str]
) -> Solved:
    """Levenberg and Marquardt's steps from a start, all draws at once, until none gets better.

    Parameters that are not linear move by their logarithm and so stay positive.
    """
    rows = [np.asarray(x, dtype=float)[None] for x in inputs]
    logs = np.array([name not in law.linear for name in free], dtype=bool)

    def named(theta: Array) -> Params:
        moved = zip(free, theta.T, logs, strict=True)
        return {name: np.exp(values) if log else values for name, values, log in moved}

    def residual(theta: Array) -> Array:
        """[draw, point], of ``theta`` [draw, free], which may be complex."""
        values = {n: v[:, None] for n, v in params.items()}
        values |= {n: v[:, None] for n, v in named(theta).items()}
        return (law.form(*rows, *[values[n] for n in law.names]) - ys) * root

    start = np.stack([params[n] for n in free], 1) if free else np.empty((len(ys), 0))
    first = np.where(logs, np.log(np.where(logs, start, 1.0)), start)
    theta = first.copy()
    error = (residual(theta) ** 2).sum(1)
    damping, active = np.full(len(ys), 1e-3), np.ones(len(ys), dtype=bool)
    for _ in range(ROUNDS if free else 0):
        r = residual(theta)
        steps = np.eye(len(free)) * 1j * TINY
        slopes = np.stack([residual(theta + step).imag / TINY for step in steps], -1)
        gradient = np.einsum("dpi,dp->di", slopes, r)
        normal = np.einsum("dpi,dpj->dij", slopes, slopes)
        # In units in which its diagonal is 1 or, where a parameter does nothing, 0: the damping
        # alone then keeps every draw's system solvable.
        size = np.sqrt(np.einsum("dii->di", normal))
        size[size == 0] = 1.0
        units = (
            normal / (size[:, :, None] * size[:, None]) + np.eye(len(free)) * damping[:, None, None]
        )
        moved = theta - np.linalg.solve(units, (gradient / size)[..., None])[..., 0] / size
        moved = np.where(logs, np.clip(moved, first - FARTHEST, first + FARTHEST), moved)
        now = (residual(moved) ** 2).sum(1)
        better = active & (now < error)
        small = np.abs(moved - theta).max(1) < 1e-12 * (1 + np.abs(theta).max(1))
        active &= ~(better & small) & (damping < 1e12)
        theta[better], error[better] = moved[better], now[better]
        damping = np.where(better, np.maximum(damping / 10, LEAST), damping * 10)
        if not active.any():
            break
    return Solved(law, {n: (params | named(theta))[n] for n in law.names}, error)
