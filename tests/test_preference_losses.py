"""Losses of reward models: numbers by hand, gradients by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from upslope.preferences import losses

Loss = Callable[[Tensor], Tensor]


def wide(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def away(loss: Loss, at: Tensor, step: float = 1e-6) -> float:
    """How far the analytic gradient is from central differences, at most."""
    x = at.clone().requires_grad_(True)
    loss(x).sum().backward()
    assert x.grad is not None
    found = torch.empty_like(at)
    for place in range(at.numel()):
        moved = torch.zeros(at.numel(), dtype=at.dtype)
        moved[place] = step
        moved = moved.view_as(at)
        found.view(-1)[place] = (loss(at + moved).sum() - loss(at - moved).sum()) / (2 * step)
    return float((x.grad - found).abs().max())


def test_bradley_terry_is_trls_formula() -> None:
    """TRL: -logsigmoid(chosen - rejected - margin).mean() + c mean((chosen + rejected)^2)."""
    chosen, rejected, margin = wide([1.0, -0.5]), wide([0.25, 0.5]), wide([0.5, 0.0])
    got = losses.bradley_terry(chosen, rejected, margin, centring=0.01)
    ahead = (1.0 - 0.25 - 0.5, -0.5 - 0.5)
    expected = [math.log(1 + math.exp(-a)) for a in ahead]
    expected = [e + 0.01 * s**2 for e, s in zip(expected, (1.25, 0.0), strict=True)]
    assert got.tolist() == pytest.approx(expected)
    assert expected[0] == pytest.approx(math.log(1 + math.exp(-0.25)) + 0.015625)


def test_smoothing_is_the_expected_loss() -> None:
    right = losses.bradley_terry(wide([2.0]), wide([0.0]))
    wrong = losses.bradley_terry(wide([0.0]), wide([2.0]))
    got = losses.bradley_terry(wide([2.0]), wide([0.0]), smoothing=0.25)
    assert float(got) == pytest.approx(float(0.75 * right + 0.25 * wrong))
    # Least where the foretold chance is the share that is right: sigmoid(x) = 3/4.
    best = wide([math.log(3)]).requires_grad_(True)
    losses.bradley_terry(best, wide([0.0]), smoothing=0.25).sum().backward()
    assert best.grad is not None
    assert float(best.grad) == pytest.approx(0, abs=1e-12)


def test_a_pair_that_is_not_told_apart_costs_log_2() -> None:
    assert float(losses.bradley_terry(wide([0.3]), wide([0.3]))) == pytest.approx(math.log(2))


def test_regression_and_steps_by_hand() -> None:
    assert losses.regression(wide([1.0]), wide([0.25])).tolist() == [0.28125]
    got = losses.step_cross_entropy(wide([0.0, 2.0]), wide([1.0, 0.25]))
    high, low = -math.log(1 / (1 + math.exp(-2))), -math.log(1 / (1 + math.exp(2)))
    assert got.tolist() == pytest.approx([math.log(2), 0.25 * high + 0.75 * low])


def test_steps_together() -> None:
    scores = wide([[0.0, 2.0, -1.0], [3.0, 9.0, 9.0]])
    real = torch.tensor([[True, True, True], [True, False, False]])
    log = [math.log(1 / (1 + math.exp(-s))) for s in (0.0, 2.0, -1.0, 3.0)]
    assert losses.together(scores, real, "min").tolist() == pytest.approx([log[2], log[3]])
    product = losses.together(scores, real, "product").tolist()
    assert product == pytest.approx([sum(log[:3]), log[3]])
    assert losses.together(scores, real, "last").tolist() == pytest.approx([log[2], log[3]])


@pytest.mark.parametrize("centring", [0.0, 0.03])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients_by_finite_differences(centring: float, smoothing: float) -> None:
    torch.manual_seed(0)
    at = 3 * torch.randn(2, 5, dtype=torch.float64)
    margin = torch.rand(5, dtype=torch.float64)

    def pairs(x: Tensor) -> Tensor:
        return losses.bradley_terry(x[0], x[1], margin, centring, smoothing)

    assert away(pairs, at) < 1e-7
    share = torch.rand(2, 5, dtype=torch.float64)
    assert away(lambda x: losses.regression(x, share), at) < 1e-7
    assert away(lambda x: losses.step_cross_entropy(x, share), at) < 1e-7
    real = torch.ones(2, 5, dtype=torch.bool)
    assert away(lambda x: losses.together(x, real, "product"), at) < 1e-7
