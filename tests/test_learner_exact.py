"""The learner on a problem whose replies can all be written out, against exact gradients."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from learners import a_learner, gradient, plain, policy, prepared, shifted
from records import group
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.reinforce import Reinforce
from upslope.algorithms.rloo import RLOO
from upslope.batch import Batch
from upslope.losses import KL
from upslope.models.policy import Policy

VOCABULARY = 6
REPLIES = [list(pair) for pair in itertools.product(range(VOCABULARY), repeat=2)]
N = len(REPLIES)
PRIZES = torch.rand(N, generator=torch.Generator().manual_seed(4))


def chances(of: Policy, model: torch.nn.Module | None = None) -> torch.Tensor:
    """log p of every reply to the prompt 1, 2, from full logits."""
    rows = torch.tensor([[1, 2, *reply] for reply in REPLIES])
    logp = (model or plain(of))(rows).logits[:, 1:3].log_softmax(-1)
    return logp.gather(-1, rows[:, 2:, None])[..., 0].sum(1)


def exact_gradient(of: Policy, value: torch.Tensor) -> torch.Tensor:
    """Of the expectation of ``value`` over replies."""
    model = plain(of)
    (chances(of, model).exp() * value).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(F.cosine_similarity(a.double(), b.double(), dim=0))


def test_reinforce_through_the_learner_is_the_exact_policy_gradient():
    """All replies, each reward times its probability: the expectation of the estimate."""
    learner = a_learner(policy(VOCABULARY, 1))
    want = exact_gradient(learner.policy, PRIZES)
    p = chances(learner.policy).exp().detach()
    algorithm = Reinforce(decay=1.0, aggregation="constant", length=1)
    rewards = (p * PRIZES).tolist()
    part = prepared(learner, algorithm, Batch.of([group(rewards, REPLIES, prompt=[1, 2])]))
    got, _ = gradient(learner, part, algorithm)
    torch.testing.assert_close(-N * got, want, atol=1e-6, rtol=1e-4)
    assert cosine(-got, want) > 0.99999


def test_rloo_through_the_learner_is_the_exact_policy_gradient():
    """All pairs of unlike replies, each with its probability: RLOO is unbiased."""
    learner = a_learner(policy(VOCABULARY, 1))
    want = exact_gradient(learner.policy, PRIZES)
    p = chances(learner.policy).exp().detach()
    algorithm = RLOO(aggregation="constant", length=1)
    groups = [
        group((p[i] * p[j] * PRIZES[[i, j]]).tolist(), [REPLIES[i], REPLIES[j]], [1, 2], f"{i},{j}")
        for i, j in itertools.combinations(range(N), 2)
    ]
    part = prepared(learner, algorithm, Batch.of(groups))
    got, _ = gradient(learner, part, algorithm, budget=3000)
    # Either order of a pair is as likely, and its members estimate the same.
    torch.testing.assert_close(-2 * len(groups) * got, want, atol=1e-6, rtol=1e-3)
    assert cosine(-got, want) > 0.99999


def test_kl_in_the_reward_is_the_exact_gradient_of_reward_less_kl():
    """Sequence KL, which a KL per token in the loss would miss."""
    one = policy(VOCABULARY, 1)
    reference = shifted(one, 0.3)
    learner = a_learner(one, reference=reference)
    logp, ref = chances(one).detach(), chances(reference).detach()
    want = exact_gradient(one, PRIZES - 0.7 * (logp - ref))
    p, algorithm = logp.exp(), Reinforce(1.0, "constant", 1, kl=KL(0.7, "k1", "reward"))
    part = prepared(learner, algorithm, Batch.of([group(PRIZES.tolist(), REPLIES, prompt=[1, 2])]))
    hand = PRIZES - 0.7 * (logp - ref)
    torch.testing.assert_close(part.advantages[:, 2], hand, atol=1e-5, rtol=0)
    part = replace(part, advantages=part.advantages * p[:, None])
    got, _ = gradient(learner, part, algorithm)
    assert cosine(-got, want) > 0.99999


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_kl_in_the_loss_pulls_towards_the_reference(kind):
    one = policy(VOCABULARY, 1)
    reference = shifted(one, 0.3)
    learner = a_learner(one, reference=reference, lr=2e-2)
    algorithm = GRPO(kl=KL(1.0, kind))
    part = prepared(learner, algorithm, Batch.of([group([0.0] * N, REPLIES, prompt=[1, 2])]))

    def distance() -> float:
        logp, ref = (chances(of).detach() for of in (one, reference))
        return float((logp.exp() * (logp - ref)).sum())

    before, seen = distance(), []
    for _ in range(20):
        seen.append(learner.update(part, algorithm)["kl/reference"])
    assert distance() < 0.4 * before
    assert seen[-1] < 0.4 * seen[0]
