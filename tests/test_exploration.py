"""Which tokens are held back from learning: by hand, against twins in numpy, and in a gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from records import group
from upslope import exploration
from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch, Outputs
from upslope.batteries.algorithm import check_algorithm
from upslope.exploration import Explore

DRAW = np.random.default_rng(0)
SHAPE = (6, 40)
TRAINED = torch.from_numpy(DRAW.random(SHAPE) < 0.7)
LOGPROBS = torch.from_numpy(-3 * DRAW.random(SHAPE))
ADVANTAGES = torch.from_numpy(DRAW.normal(size=(6, 1)) + np.zeros(SHAPE))
TOKENS = torch.from_numpy(DRAW.integers(0, 9, SHAPE))
GROUP = torch.tensor([3, 3, 3, 8, 8, 8])


def twin_covariance(mask: np.ndarray) -> np.ndarray:
    said, worth = LOGPROBS.numpy(), ADVANTAGES.numpy()
    away = (said - said[mask].mean()) * (worth - worth[mask].mean())
    return np.where(mask, away, 0.0)


def test_covariance_by_hand():
    # Means of -2 and 0.5 over three tokens.
    said, worth = torch.tensor([[-1.0, -2, -3, 9]]), torch.tensor([[1.0, 0.5, 0, 9]])
    got = exploration.covariance(said, worth, torch.tensor([[True, True, True, False]]))
    assert got.tolist() == [[0.5, 0.0, 0.5, 0.0]]


def test_clip_cov_draws_its_share_from_those_within_the_bounds():
    how = Explore("clip_cov", 0.05, 0.2, 0.8)
    held = exploration.clip_cov(TOKENS, LOGPROBS, ADVANTAGES, TRAINED, how)
    cov = twin_covariance(TRAINED.numpy())
    within = TRAINED.numpy() & (cov > 0.2) & (cov < 0.8)
    assert within.sum() > 20
    assert not (held.numpy() & ~within).any()
    assert int(held.sum()) == int(0.05 * int(TRAINED.sum()))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    again = exploration.clip_cov(*(x[order] for x in (TOKENS, LOGPROBS, ADVANTAGES, TRAINED)), how)
    assert torch.equal(again, held[order])
    whole = exploration.clip_cov(TOKENS, LOGPROBS, ADVANTAGES, TRAINED, replace(how, share=1.0))
    np.testing.assert_array_equal(whole.numpy(), within)
    none = exploration.clip_cov(
        TOKENS, LOGPROBS, ADVANTAGES, TRAINED, Explore("clip_cov", 1.0, 90, 99)
    )
    assert not none.any()


def test_kl_cov_takes_the_highest_of_each_group():
    held = exploration.kl_cov(LOGPROBS, ADVANTAGES, TRAINED, GROUP, Explore("kl_cov", 0.1)).numpy()
    for number in (3, 8):
        own = TRAINED.numpy() & (number == GROUP).numpy()[:, None]
        cov = twin_covariance(own)
        count = int(0.1 * own.sum())
        want = own & (cov >= np.sort(cov[own])[-count])
        np.testing.assert_array_equal(held & own, want)
        assert cov[want].min() > 0


def test_low_entropy_is_all_but_the_share_of_highest():
    entropy = torch.tensor([[0.1, 2.0, 0.3, 1.0, 9.0], [0.2, 0.4, 0.5, 3.0, 0.6]])
    trained = torch.tensor([[True] * 4 + [False], [True] * 5])
    held = exploration.low_entropy(entropy, trained, 0.34)  # 3 of 9
    assert held.tolist() == [[True, False, True, False, False], [True, True, True, False, True]]


def batch() -> Batch:
    replies = [[4, 5, 6], [6, 7], [9, 8, 4, 5]]
    whole = Batch.of([group([1.0, 0.0, 0.25], replies), group([0.0, 2.0], [[4, 4], [5]], id="b")])
    draw = torch.Generator().manual_seed(2)
    said = torch.where(whole.trained, -3 * torch.rand(whole.tokens.shape, generator=draw), 0.0)
    spread = torch.where(whole.trained, torch.rand(said.shape, generator=draw), 0.0)
    return replace(whole, engine_logprobs=said, old_logprobs=said, entropy=spread)


def test_what_is_held_has_no_advantage_and_all_else_its_own():
    whole = batch()
    plain = GRPO().advantages(whole)
    highest = exploration.low_entropy(whole.entropy, whole.trained, 0.25)
    got = GRPO(explore=Explore("low_entropy", 0.25)).advantages(whole)
    assert torch.equal(got, torch.where(highest, 0.0, plain))
    how = Explore("clip_cov", 0.3, 0.0, 9.0)
    got = GRPO(explore=how).advantages(whole)
    held = exploration.clip_cov(whole.tokens, whole.engine_logprobs, plain, whole.trained, how)
    assert held.any()
    assert torch.equal(got, torch.where(held, 0.0, plain))
    weights = GRPO(explore=how).weights(replace(whole, advantages=got))
    assert torch.equal(weights, GRPO().weights(replace(whole, advantages=plain)))
    with pytest.raises(ValueError, match="needs the entropy filled"):
        GRPO(explore=Explore("low_entropy")).advantages(replace(whole, entropy=None))


def test_kl_cov_pulls_the_held_towards_the_old_policy():
    """By finite difference, away from the old policy; at ratio 1 nothing is paid."""
    whole = batch()
    algorithm = GRPO(explore=Explore("kl_cov", 0.2, coefficient=0.5))
    assert (algorithm.couples, GRPO().couples) == ("group", "row")
    whole = replace(whole, advantages=algorithm.advantages(whole))
    held = exploration.kl_cov(
        whole.engine_logprobs, whole.advantages, whole.trained, whole.group, algorithm.explore
    )
    assert 0 < int(held.sum()) < int(whole.trained.sum())
    now = (whole.old_logprobs + 0.05 * whole.trained).double().requires_grad_()
    for way in (algorithm, GRPO()):
        loss, _ = way.loss(Outputs(now), whole)
        (grad,) = torch.autograd.grad(loss.sum(), now)
        step = 1e-6 * torch.ones_like(now)
        after, _ = way.loss(Outputs(now.detach() + step), whole)
        before, _ = way.loss(Outputs(now.detach() - step), whole)
        torch.testing.assert_close(grad, (after - before) / 2e-6, atol=1e-5, rtol=1e-4)
        if way is algorithm:
            paid, full = grad, loss
    torch.testing.assert_close(paid - grad, 0.5 * held.double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(full - loss, 0.5 * 0.05 * held.double(), atol=1e-6, rtol=0)
    same, _ = algorithm.loss(Outputs(whole.old_logprobs), whole)
    assert torch.equal(same, GRPO().loss(Outputs(whole.old_logprobs), whole)[0])


@pytest.mark.parametrize("hold", ["clip_cov", "kl_cov", "low_entropy"])
def test_no_split_order_or_padding_changes_what_is_held(hold):
    check_algorithm(GRPO(explore=Explore(hold, 0.3, 0.0, 9.0)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Explore(share=0.0), "explore.share must be above 0"),
        (lambda: Explore(low=5.0), "explore.low=5 must be below explore.high=5"),
        (lambda: Explore(coefficient=-1.0), "not negative"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
