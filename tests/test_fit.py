"""Fits: exact where there is no noise, as good as said where there is."""

from __future__ import annotations

import numpy as np
import pytest

from upslope.scaling import forms, laws
from upslope.scaling.fit import CURVES, LAWS, solve
from upslope.types import UserError

TRUE = {"floor": 0.1, "ceiling": 0.8, "midpoint": 3e15, "exponent": 1.8}
X = np.linspace(0, 4, 41)[1:] * TRUE["midpoint"]


@pytest.mark.parametrize(
    ("law", "params"),
    [
        ("sigmoid", TRUE),
        ("exponential", {"floor": 0.2, "ceiling": 0.9, "scale": 4e15}),
        ("power", {"ceiling": 0.9, "gap": 3e5, "exponent": 0.4}),
        ("log_linear", {"intercept": -1.0, "slope": 0.04}),
    ],
)
def test_without_noise_a_fit_is_exact(law: str, params: dict[str, float]) -> None:
    found = solve(CURVES[law], [X], CURVES[law].form(X, **params))
    for name, value in params.items():
        assert found.params[name][0] == pytest.approx(value, rel=1e-6)


def test_chinchilla_is_exact_by_projection_and_near_by_huber() -> None:
    size, tokens = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6))
    )
    params = {"floor": 1.82, "a": 482.0, "b": 2085.0, "alpha": 0.348, "beta": 0.366}
    loss = forms.chinchilla(size, tokens, **params)
    found = solve(LAWS["chinchilla"], [size, tokens], loss)
    for name, value in params.items():
        assert found.params[name][0] == pytest.approx(value, rel=1e-6)
    near = laws.chinchilla_by_huber(size, tokens, loss)
    assert near["alpha"] == pytest.approx(0.348, abs=0.005)
    assert near["beta"] == pytest.approx(0.366, abs=0.005)


def test_with_noise_ceiling_and_exponent_are_as_close_as_said() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (200, len(X)))
    found = solve(CURVES["sigmoid"], [X], forms.sigmoid(X, **TRUE) + noise, fixed={"floor": 0.1})
    ceiling, exponent = found.params["ceiling"], found.params["exponent"]
    assert np.sqrt(np.mean((ceiling - 0.8) ** 2)) <= 0.009
    assert np.sqrt(np.mean((exponent / 1.8 - 1) ** 2)) <= 0.03


def test_draws_together_are_draws_alone() -> None:
    ys = forms.sigmoid(X, **TRUE) + np.random.default_rng(1).normal(0, 0.02, (70, len(X)))
    weights = np.linspace(1, 3, len(X))
    together = solve(CURVES["sigmoid"], [X], ys, weights)
    for draw in (0, 69):
        alone = solve(CURVES["sigmoid"], [X], ys[draw], weights)
        for name in TRUE:
            assert alone.params[name][0] == pytest.approx(together.params[name][draw], rel=1e-6)


def test_a_fit_is_a_minimum() -> None:
    y = forms.sigmoid(X, **TRUE) + np.random.default_rng(2).normal(0, 0.02, len(X))
    found = solve(CURVES["sigmoid"], [X], y)
    best = {name: values[0] for name, values in found.params.items()}
    for name in TRUE:
        for factor in (0.999, 1.001):
            other = forms.sigmoid(X, **(best | {name: best[name] * factor}))
            assert ((other - y) ** 2).sum() > found.error[0]


def test_a_bound_holds_and_the_rest_is_fitted_again() -> None:
    y = forms.sigmoid(X, 0.1, 1.1, TRUE["midpoint"], 1.8)
    found = solve(CURVES["sigmoid"], [X], y, bounds={"ceiling": (-np.inf, 1.0)})
    assert found.params["ceiling"][0] == 1.0
    at_bound = solve(CURVES["sigmoid"], [X], y, fixed={"ceiling": 1.0})
    assert found.error[0] == pytest.approx(at_bound.error[0])


def test_too_few_points_are_refused() -> None:
    with pytest.raises(UserError, match="3 points cannot tell 4 parameters"):
        solve(CURVES["sigmoid"], [X[:3]], np.zeros(3))


def test_a_beta_is_found_again() -> None:
    random = np.random.default_rng(3)
    asked = np.full(4000, 16)
    right = random.binomial(asked, random.beta(0.6, 2.5, 4000))
    a, b = laws.beta_binomial(asked, right)
    assert (a, b) == (pytest.approx(0.6, rel=0.1), pytest.approx(2.5, rel=0.1))
    k = np.array([64])
    assert laws.beta_binomial_curve(asked, right, k) == pytest.approx(
        forms.pass_at(k, 0.6, 2.5), abs=0.02
    )
    with pytest.raises(UserError, match="equally right"):
        laws.beta_binomial([4, 4], [4, 4])


def test_a_law_over_sizes_is_found_again() -> None:
    sizes = [1e8, 3e8, 1e9, 3e9]
    compute = [np.geomspace(1e15, 1e18, 12)] * 4
    given = (0.3, 0.1, -0.2, -0.4)
    loss = [
        forms.learning_efficiency(n, compute[0], 0.25, 5e8, e)
        for n, e in zip(sizes, given, strict=True)
    ]
    found = laws.learning_efficiency(sizes, compute, loss)
    assert found["steepest"] == pytest.approx(0.25, rel=1e-6)
    assert found["half_size"] == pytest.approx(5e8, rel=1e-5)
    assert found["intercepts"] == pytest.approx(given, abs=1e-5)
    with pytest.raises(UserError, match="at least 3"):
        laws.learning_efficiency(sizes[:2], compute[:2], loss[:2])


def test_a_depth_law_is_found_again() -> None:
    steps = np.array([1.0, 2, 3, 4, 5])
    assert laws.depth(steps, forms.depth(steps, 3e12, 1.7)) == pytest.approx((3e12, 1.7))
