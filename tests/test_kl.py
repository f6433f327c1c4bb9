"""Facts about KL on a softmax over a table, by enumeration: what each estimator descends."""

from __future__ import annotations

import pytest
import torch

from upslope import losses


class Softmax:
    """Logits of a policy and of a reference over 6 tokens, and every token once as a row."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.logits = torch.randn(6, generator=draw, dtype=torch.float64, requires_grad=True)
        self.ref = torch.randn(6, generator=draw, dtype=torch.float64).log_softmax(-1)

    @property
    def logp(self) -> torch.Tensor:
        return self.logits.log_softmax(-1)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, self.logits)[0]

    def expected(self, kind: losses.KLKind) -> torch.Tensor:
        """E over the policy's own samples of the estimator, sampling not differentiated."""
        return (self.logp.exp().detach() * losses.kl(self.logp[None], self.ref[None], kind)).sum()

    def corrected(self, kind: losses.KLKind, old: torch.Tensor) -> torch.Tensor:
        """E over the samples of an old policy of the corrected estimator."""
        each = losses.corrected_kl(self.logp[None], old[None], self.ref[None], kind)
        return (old.exp() * each).sum()

    def other(self) -> torch.Tensor:
        """An old policy that is not this one."""
        draw = torch.Generator().manual_seed(9)
        apart = torch.randn(6, generator=draw, dtype=torch.float64)
        return (self.logits.detach() + apart).log_softmax(-1)

    def reverse(self) -> torch.Tensor:
        """KL(pi || ref)"""
        return (self.logp.exp() * (self.logp - self.ref)).sum()

    def forward(self) -> torch.Tensor:
        """KL(ref || pi)"""
        return (self.ref.exp() * (self.ref - self.logp)).sum()


def test_k1_and_k3_are_unbiased_and_k3_is_not_negative():
    table = Softmax()
    for kind in ("k1", "k3"):
        assert table.expected(kind).item() == pytest.approx(table.reverse().item(), abs=1e-12)
    assert (losses.kl(table.logp[None], table.ref[None], "k3") >= 0).all()


def test_k1_as_a_loss_has_no_expected_gradient():
    table = Softmax()
    assert table.gradient(table.expected("k1")).abs().max() < 1e-15


def test_k2_as_a_loss_descends_kl_of_policy_to_reference():
    table = Softmax()
    want = table.gradient(table.reverse())
    torch.testing.assert_close(table.gradient(table.expected("k2")), want, atol=1e-12, rtol=0)


def test_k3_as_a_loss_descends_kl_of_reference_to_policy():
    table = Softmax()
    want = table.gradient(table.forward())
    torch.testing.assert_close(table.gradient(table.expected("k3")), want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_corrected_kl_descends_kl_of_policy_to_reference_whoever_sampled(kind, stale):
    table = Softmax()
    old = table.other() if stale else table.logp.detach()
    want = table.gradient(table.reverse())
    got = table.corrected(kind, old)
    if kind != "k2":
        assert got.item() == pytest.approx(table.reverse().item(), abs=1e-12)
    torch.testing.assert_close(table.gradient(got), want, atol=1e-12, rtol=0)


def test_plain_kl_off_policy_descends_neither():
    """And k3 weighed by sg(rho) stays KL(ref || pi): why the gradient has to go through rho."""
    table = Softmax()
    old = table.other()
    reverse, forward = table.gradient(table.reverse()), table.gradient(table.forward())
    for kind in ("k2", "k3"):
        plain = (old.exp() * losses.kl(table.logp[None], table.ref[None], kind)).sum()
        got = table.gradient(plain)
        assert min((got - reverse).norm(), (got - forward).norm()) > 0.1 * reverse.norm()
    rho = (table.logp - old).exp().detach()
    held = (old.exp() * rho * losses.kl(table.logp[None], table.ref[None], "k3")).sum()
    torch.testing.assert_close(table.gradient(held), forward, atol=1e-12, rtol=0)


def test_off_policy_each_form_has_the_gradient_that_is_said_of_it():
    """What goes through rho and what must not (reference, objectives 4.4)."""
    table = Softmax()
    old = table.other()
    reverse = table.gradient(table.reverse())

    def expected(kind: losses.KLKind, *, through: bool, held: bool = False) -> torch.Tensor:
        rho = (table.logp - old).exp()
        each = losses.kl(table.logp[None], table.ref[None], kind)[0]
        rho, each = rho if through else rho.detach(), each.detach() if held else each
        return table.gradient((old.exp() * rho * each).sum())

    assert expected("k1", through=False).abs().max() < 1e-15  # k1 as a loss, off-policy too
    in_reward = expected("k1", through=True, held=True)
    torch.testing.assert_close(in_reward, reverse, atol=1e-12, rtol=0)
    torch.testing.assert_close(expected("k2", through=False), reverse, atol=1e-12, rtol=0)
    assert (expected("k2", through=True) - reverse).norm() > 0.1 * reverse.norm()


def test_k3_with_the_gradient_of_k2_has_both_virtues():
    """Straight through: the value that is never negative, the gradient of KL(pi || ref)."""
    table = Softmax()
    k2, k3 = (losses.kl(table.logp[None], table.ref[None], kind)[0] for kind in ("k2", "k3"))
    value = table.logp.exp().detach() @ (k3.detach() + k2 - k2.detach())
    assert value.item() == pytest.approx(table.reverse().item(), abs=1e-12)
    want = table.gradient(table.reverse())
    torch.testing.assert_close(table.gradient(value), want, atol=1e-12, rtol=0)


def test_an_adaptive_coefficient_by_hand():
    """arXiv:1909.08593: errors are clipped at 0.2 and weigh 0.1."""
    penalty = losses.KL(0.2, "k1", "reward", target=0.1)
    state = penalty.start()
    assert (state, penalty.paid(state), penalty.paid(None)) == ({"kl": 0.2}, 0.2, 0.2)
    for seen, factor in ((0.11, 1.01), (5.0, 1.02), (0.05, 0.98), (-1.0, 0.98), (0.1, 1.0)):
        after = penalty.advance(state, {"kl/reference": seen})
        assert after["kl"] == pytest.approx(state["kl"] * factor)
        state = after
    assert penalty.advance(state, {}) == state
    fixed = losses.KL(0.2, "k1", "reward")
    assert fixed.advance(fixed.start(), {"kl/reference": 9.0}) == {}
    for wrong in ({"target": 0.1}, {"coefficient": 0.1, "rate": -1.0}):
        with pytest.raises(ValueError, match="all of these must be above 0"):
            losses.KL(**wrong)


def test_k1_in_the_reward_descends_kl_of_policy_to_reference():
    table = Softmax()
    reward = -losses.kl(table.logp.detach()[None], table.ref[None], "k1")
    surrogate = losses.policy_gradient(table.logp[None], table.logp.detach()[None], reward)
    got = table.gradient((table.logp.exp().detach() * surrogate).sum())
    torch.testing.assert_close(got, table.gradient(table.reverse()), atol=1e-12, rtol=0)


def test_token_k2_over_a_sequence_misses_what_a_token_leads_to():
    """Why k1 in the reward exists: the first token agrees with the reference, the second not."""
    draw = torch.Generator().manual_seed(0)
    live = [
        torch.randn(s, generator=draw, dtype=torch.float64, requires_grad=True) for s in (3, (3, 3))
    ]
    first, second = (x.log_softmax(-1) for x in live)
    ref = torch.randn(3, 3, generator=draw, dtype=torch.float64).log_softmax(-1)
    joint, known = first[:, None] + second, first.detach()[:, None] + ref

    def gradient(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, live, retain_graph=True))

    p = joint.exp().detach()
    want = gradient((joint.exp() * (joint - known)).sum())
    reward = -losses.kl(joint.detach(), known, "k1")
    in_reward = gradient((p * losses.policy_gradient(joint, joint.detach(), reward)).sum())
    sequence = gradient((p * losses.kl(joint, known, "k2")).sum())
    torch.testing.assert_close([in_reward, sequence], [want, want], atol=1e-12, rtol=0)
    alone = losses.kl(first[None], first.detach()[None], "k2")[0][:, None]
    token = gradient((p * (alone + losses.kl(second, ref, "k2"))).sum())
    torch.testing.assert_close(token[1], want[1], atol=1e-12, rtol=0)
    assert token[0].norm() == 0
    assert want[0].norm() > 0.05


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_with_no_reward_the_kl_falls(kind):
    table = Softmax()
    before = table.reverse().item()
    optimiser = torch.optim.SGD([table.logits], lr=0.5)
    for _ in range(50):
        optimiser.zero_grad()
        table.expected(kind).backward()
        optimiser.step()
    assert table.reverse().item() < 0.1 * before


def test_k1_as_a_loss_is_refused():
    with pytest.raises(ValueError, match="expected gradient of 0"):
        losses.KL(0.1, "k1", "loss")
    assert losses.KL(0.1, "k1", "loss", corrected=True).in_loss
    with pytest.raises(ValueError, match="a reward has none"):
        losses.KL(0.1, "k1", "reward", corrected=True)
    with pytest.raises(ValueError, match="negative"):
        losses.KL(-0.1)
    assert losses.KL(0.1, "k1", "reward").in_reward


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_other_kinds_as_a_reward_drive_away_and_are_refused(kind):
    """A policy of 0.9 and a reference of 0.5: k1 lowers the 0.9, the others raise it."""
    signs = {}
    for each in ("k1", kind):
        policy = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log().requires_grad_()
        logp = policy.log_softmax(-1)
        half = torch.full((1, 2), 0.5, dtype=torch.float64).log()
        reward = -losses.kl(logp.detach(), half, each)
        (-(logp.exp() * reward).sum()).backward()
        signs[each] = policy.grad[0, 0].sign().item()
    assert signs == {"k1": 1.0, kind: -1.0}  # descent lowers the first logit, or raises it
    with pytest.raises(ValueError, match=f'{kind} as a reward .*: use kl.kind = "k1"'):
        losses.KL(0.1, kind, "reward")
    assert not losses.KL(0.0, "k1", "loss").in_loss
