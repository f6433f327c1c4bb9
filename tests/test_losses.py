"""Losses against golden vectors, numpy twins with finite differences; aggregation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from upslope import losses

SHAPE = (5, 7)


def rows(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def columns(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, old ones and advantages, with ratios on both sides of every clip."""
    draw = np.random.default_rng(seed)
    logprobs = -3 * draw.random(SHAPE)
    return logprobs, logprobs + draw.normal(0, 0.5, SHAPE), draw.normal(size=SHAPE)


# Golden vectors.


@pytest.mark.parametrize(
    ("rho", "advantage", "want"),
    [(1.5, 1, -1.28), (0.5, 1, -0.5), (1.5, -1, 1.5), (0.5, -1, 0.8), (5, -1, 3.0)],
)
def test_ppo_clip_with_dual(rho, advantage, want):
    logprobs, old = rows(np.log(rho) - 1), rows(-1.0)
    got = losses.clipped_surrogate(logprobs, old, rows(advantage), 0.2, 0.28, dual=3.0)
    assert got.item() == pytest.approx(want, abs=1e-6)


def test_without_dual_a_negative_advantage_is_unbounded():
    got = losses.clipped_surrogate(rows(np.log(5.0)), rows(0.0), rows(-1.0), 0.2, 0.28)
    assert got.item() == pytest.approx(5.0)


def test_cispo():
    logprobs, old = rows(-1, -2, -0.5), rows(-1.1, -1.8, -0.9)
    got = losses.clipped_weight(logprobs, old, rows(0.5, 0.5, 0.5), high=1.2)
    torch.testing.assert_close(got, rows(0.552585, 0.818731, 0.3), atol=1e-6, rtol=0)


def test_ratio_and_kl_by_hand():
    logprobs, old = rows(-1, -2, -0.5), rows(-1.1, -1.8, -0.9)
    want = rows(1.105171, 0.818731, 1.491825)
    torch.testing.assert_close(losses.ratio(logprobs, old), want, atol=1e-6, rtol=0)
    torch.testing.assert_close(losses.kl(logprobs, old, "k1"), rows(0.1, -0.2, 0.4))
    torch.testing.assert_close(losses.kl(logprobs, old, "k2"), rows(0.005, 0.02, 0.08))
    k3 = rows(np.exp(-0.1) - 0.9, np.exp(0.2) - 1.2, np.exp(-0.4) - 0.6)
    torch.testing.assert_close(losses.kl(logprobs, old, "k3"), k3)


def test_gspo_ratio():
    logprobs, old = rows(-1, -2, -0.5, 9), rows(-1.1, -1.8, -0.9, 77)
    trained = torch.tensor([[True, True, True, False]])
    got = losses.sequence_ratio(logprobs, old, trained, torch.tensor([4]))
    torch.testing.assert_close(got, rows(*[1.105171] * 4), atol=1e-6, rtol=0)
    # The same three tokens as two segments of one trajectory, beside another one.
    cut = torch.cat([logprobs, logprobs.roll(-1), logprobs + 1])
    trained = torch.tensor([[True, False, False, False], [True, True, False, False], [True] * 4])
    past = torch.cat([old, old.roll(-1), cut[2:] - 2])
    got = losses.sequence_ratio(cut, past, trained, torch.tensor([4, 4, 2]))
    want = rows(1.105171, 1.105171, np.exp(2.0)).T.expand(3, 4)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_importance_weights_are_cut_to_their_bounds_or_zero_outside():
    weights = torch.tensor([10.0, 0.5, 1.0, 2.0, 0.1])
    for how, floor, want in (
        ("truncate", 0.0, [2.0, 0.5, 1.0, 2.0, 0.1]),
        ("truncate", 0.5, [2.0, 0.5, 1.0, 2.0, 0.5]),
        ("mask", 0.0, [0.0, 0.5, 1.0, 2.0, 0.1]),
        ("mask", 0.5, [0.0, 0.5, 1.0, 2.0, 0.0]),
    ):
        assert losses.bounded(weights, how, floor, 2.0).tolist() == pytest.approx(want)


def test_effective_share():
    assert losses.effective_share(torch.tensor([2.0, 0.5, 1.0, 1.0])).item() == pytest.approx(0.81)
    assert losses.effective_share(torch.ones(7)).item() == pytest.approx(1.0)
    assert losses.effective_share(torch.zeros(3)).item() == 0.0


# Entropy.


def test_a_fixed_entropy_bonus_has_no_state():
    bonus = losses.Entropy(0.01)
    assert bonus.wanted
    assert not losses.Entropy().wanted
    assert bonus.advance(bonus.start(), {"entropy/mean": 0.0}) == {}
    assert bonus.paid(None) == 0.01


def test_an_adaptive_entropy_bonus_rises_below_its_target_and_is_paid_only_there():
    bonus = losses.Entropy(0.002, target=0.5)
    state = bonus.start()
    assert bonus.paid(state) == 0.0  # nothing is known yet
    seen = [(0.4, 0.007, 0.007), (0.3, 0.012, 0.012), (0.6, 0.007, 0.0), (0.7, 0.002, 0.0)]
    for entropy, coefficient, paid in [
        *seen,
        (0.9, 0.0, 0.0),
        (0.5, 0.0, 0.0),
        (0.1, 0.005, 0.005),
    ]:
        state = bonus.advance(state, {"entropy/mean": entropy})
        assert state["coefficient"] == pytest.approx(coefficient)
        assert bonus.paid(state) == pytest.approx(paid)
    assert bonus.advance(state, {}) == state  # a step in which no row was computed
    with pytest.raises(ValueError, match="must not be negative"):
        losses.Entropy(target=-1.0)


def test_clipped_share_marks_exactly_the_tokens_without_gradient():
    logprobs, old, advantage = (torch.tensor(c) for c in columns())
    logprobs.requires_grad_()
    losses.clipped_surrogate(logprobs, old, advantage, 0.2, 0.28).sum().backward()
    rho = losses.ratio(logprobs.detach(), old)
    share = losses.clipped_share(rho, advantage, 0.2, 0.28)
    assert 0 < share.sum() < share.numel()
    assert torch.equal(share > 0, logprobs.grad == 0)


# Finite differences of a numpy twin, whose second argument is what stays frozen.


def twin_policy_gradient(logprobs, frozen, old, advantage):
    return -np.exp(frozen - old) * advantage * logprobs


def twin_clipped_surrogate(logprobs, frozen, old, advantage):
    rho = np.exp(logprobs - old)
    return np.maximum(-rho * advantage, -np.clip(rho, 0.8, 1.28) * advantage)


def twin_dual(logprobs, frozen, old, advantage):
    loss = twin_clipped_surrogate(logprobs, frozen, old, advantage)
    return np.where(advantage < 0, np.minimum(loss, -1.5 * advantage), loss)


def twin_clipped_weight(logprobs, frozen, old, advantage):
    return -np.minimum(np.exp(frozen - old), 1.2) * advantage * logprobs


def twin_corrected_k1(logprobs, frozen, old, advantage):
    return np.exp(logprobs - old) * (logprobs - old + advantage)


def twin_corrected_k2(logprobs, frozen, old, advantage):
    return np.exp(frozen - old) * (logprobs - old + advantage) ** 2 / 2


def twin_corrected_k3(logprobs, frozen, old, advantage):
    k1 = logprobs - old + advantage
    return np.exp(logprobs - old) * (np.exp(-k1) - 1 + k1)


def twin_k2(logprobs, frozen, old, advantage):
    return (logprobs - old) ** 2 / 2


def twin_k3(logprobs, frozen, old, advantage):
    return np.exp(old - logprobs) - (old - logprobs) - 1


TWINS = {
    twin_policy_gradient: losses.policy_gradient,
    twin_clipped_surrogate: lambda p, o, a: losses.clipped_surrogate(p, o, a, 0.2, 0.28),
    twin_dual: lambda p, o, a: losses.clipped_surrogate(p, o, a, 0.2, 0.28, 1.5),
    twin_clipped_weight: lambda p, o, a: losses.clipped_weight(p, o, a, 1.2),
    # The reference is the old policy less the advantage, which serves as any other number.
    twin_corrected_k1: lambda p, o, a: losses.corrected_kl(p, o, o - a, "k1"),
    twin_corrected_k2: lambda p, o, a: losses.corrected_kl(p, o, o - a, "k2"),
    twin_corrected_k3: lambda p, o, a: losses.corrected_kl(p, o, o - a, "k3"),
    twin_k2: lambda p, o, a: losses.kl(p, o, "k2"),
    twin_k3: lambda p, o, a: losses.kl(p, o, "k3"),
}


@pytest.mark.parametrize("twin", TWINS, ids=lambda f: f.__name__)
def test_value_and_gradient_equal_finite_differences_of_a_twin(twin):
    logprobs, old, advantage = columns()
    live = torch.tensor(logprobs, requires_grad=True)
    loss = TWINS[twin](live, torch.tensor(old), torch.tensor(advantage))
    loss.sum().backward()
    np.testing.assert_allclose(
        loss.detach(), twin(logprobs, logprobs, old, advantage), rtol=1e-12, atol=1e-12
    )
    step = 1e-6
    above, below = (twin(logprobs + d, logprobs, old, advantage) for d in (step, -step))
    np.testing.assert_allclose(live.grad, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)


def test_gspo_gradient_equals_finite_differences_of_its_sequence_objective():
    """Whole sequences, clipped on both sides, with s differentiated and not its stand-in."""
    logprobs, old, _ = columns(3)
    old = logprobs + 0.2 * (old - logprobs)
    trained = np.random.default_rng(5).random(SHAPE) < 0.7
    owner, sign = np.array([3, 1, 3, 8, 5]), {3: 0.7, 1: -1.2, 8: 0.4, 5: -0.3}

    def objective(p: np.ndarray) -> float:
        total = 0.0
        for who, advantage in sign.items():
            own = trained & (owner == who)[:, None]
            s = np.exp((p - old)[own].mean())
            total -= min(s * advantage, np.clip(s, 0.95, 1.02) * advantage) / len(sign)
        return total

    live = torch.tensor(logprobs, requires_grad=True)
    mask, ids = torch.tensor(trained), torch.tensor(owner)
    rho = losses.sequence_ratio(live, torch.tensor(old), mask, ids)
    advantage = torch.tensor([[sign[who]] for who in owner], dtype=torch.float64).expand(SHAPE)
    per_token = losses.clipped(rho, advantage, 0.05, 0.02)
    (per_token * losses.sequence_mean(mask, ids)).sum().backward()
    share = losses.clipped_share(rho.detach(), advantage, 0.05, 0.02)[mask]
    assert 0 < share.sum() < len(share)
    want, step = np.zeros(SHAPE), 1e-6
    for place in np.argwhere(trained):
        moved = np.zeros(SHAPE)
        moved[tuple(place)] = step
        want[tuple(place)] = objective(logprobs + moved) - objective(logprobs - moved)
    np.testing.assert_allclose(live.grad, want / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("twin", TWINS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("far", [-1e4, -50.0, 50.0, 1e4])
def test_extreme_log_ratios_are_finite(twin, far):
    live = torch.full((2, 3), far, requires_grad=True)
    loss = TWINS[twin](live, torch.zeros(2, 3), torch.tensor([[1.0, -1.0, 0.0]]).expand(2, 3))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert live.grad.isfinite().all()


# Aggregation.

TRAINED = torch.tensor(
    [
        [False, True, True, True, True],
        [False, True, False, True, False],
        [False, True, False, False, False],
        [False, False, False, False, False],
        [False, True, True, False, False],
    ]
)
TRAJECTORY = torch.tensor([7, 3, 7, 4, 9])  # rows 0 and 2 are two segments of one
GROUP = torch.tensor([2, 5, 2, 5, 2])


def twin_weights(how: str, length: int) -> np.ndarray:
    """The definition, one token at a time."""
    trained, unit = TRAINED.numpy(), {"sequence": TRAJECTORY, "prompt": GROUP}.get(how, GROUP)
    total = trained.sum()
    live = {int(u) for u, row in zip(unit, trained, strict=True) if row.any()}
    plays = {int(t) for t, row in zip(TRAJECTORY, trained, strict=True) if row.any()}
    out = np.zeros(trained.shape)
    for i, j in np.argwhere(trained):
        own = sum(trained[k].sum() for k in range(5) if unit[k] == unit[i])
        each = {"token": total, "constant": len(plays) * length}
        out[i, j] = 1 / each.get(how, own * len(live))
    return out


@pytest.mark.parametrize("how", ["sequence", "token", "prompt", "constant"])
def test_weights_equal_their_twin(how):
    got = losses.aggregate(how, TRAINED, TRAJECTORY, GROUP, length=11)
    np.testing.assert_allclose(got, twin_weights(how, 11), rtol=1e-6)
    if how != "constant":
        assert got.sum().item() == pytest.approx(1.0)


def test_weights_by_hand():
    third = 1 / 3
    got = losses.sequence_mean(TRAINED, TRAJECTORY)
    # Three live trajectories: of 5 tokens over two rows, of 2, and of 2.
    assert got[0, 1].item() == got[2, 1].item() == pytest.approx(third / 5)
    assert got[1, 3].item() == got[4, 2].item() == pytest.approx(third / 2)
    assert losses.token_mean(TRAINED)[0, 1].item() == pytest.approx(1 / 9)
    got = losses.prompt_mean(TRAINED, GROUP)
    assert got[0, 1].item() == pytest.approx(1 / 2 / 7)
    assert got[1, 1].item() == pytest.approx(1 / 2 / 2)
    got = losses.constant_length(TRAINED, TRAJECTORY, 10)
    assert got[0, 1].item() == pytest.approx(1 / 30)


@pytest.mark.parametrize("how", ["sequence", "token", "prompt", "constant"])
def test_padding_and_order_change_no_weight(how):
    got = losses.aggregate(how, TRAINED, TRAJECTORY, GROUP, length=11)
    wide = losses.aggregate(how, F.pad(TRAINED, (0, 4)), TRAJECTORY, GROUP, length=11)
    assert torch.equal(wide, F.pad(got, (0, 4)))
    order = torch.tensor([4, 2, 0, 3, 1])
    other = losses.aggregate(how, TRAINED[order], TRAJECTORY[order], GROUP[order], length=11)
    assert torch.equal(other, got[order])


@pytest.mark.parametrize("how", ["sequence", "token", "prompt", "constant"])
def test_nothing_trained_weighs_nothing(how):
    nothing = torch.zeros_like(TRAINED)
    assert torch.equal(losses.aggregate(how, nothing, TRAJECTORY, GROUP, 11), nothing.float())


def test_length_bias_of_each_aggregation():
    """A wrong reply twice as long is pushed down per token as much only by Dr. GRPO's constant."""
    trained = torch.arange(9)[None] < torch.tensor([[4], [8]])
    ids = torch.tensor([0, 1])
    pushes = {
        how: losses.aggregate(how, trained, ids, ids * 0, length=8)[:, 0]
        for how in ("sequence", "token", "constant")
    }
    assert pushes["sequence"][0] == 2 * pushes["sequence"][1]
    for how in ("token", "constant"):
        assert pushes[how][0] == pushes[how][1]
    # A third reply changes what others weigh per token by the token mean, and by the constant
    # only through the number of replies.
    longer = torch.cat([trained, torch.ones(1, 9, dtype=torch.bool)])
    more = torch.tensor([0, 1, 2])
    assert losses.constant_length(longer, more, 8)[0, 0] * 3 == pytest.approx(2 / 16)
    assert losses.token_mean(longer)[0, 0] == pytest.approx(1 / 21)
