"""Mean gradients of estimators against the exact one, by enumeration: no sampling error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from exact import cosine, exact, expected_reward, less_kl, mean_gradient, pass_at, world
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.pass_at_k import PassAtK
from upslope.algorithms.reinforce import Reinforce
from upslope.algorithms.reinforce_pp import ReinforcePP
from upslope.algorithms.remax import ReMax
from upslope.algorithms.rloo import RLOO
from upslope.losses import KL, Entropy
from upslope.settings import Rollout

SAME = 0.999
KL_IN_REWARD = KL(0.3, "k1", "reward")
SUMMED = {"aggregation": "constant", "length": 2}
# What divides a batch's summed log-probabilities, beside the number of trajectories and length.
UNBIASED = {
    "reinforce": (Reinforce(**SUMMED), 1.0),
    "rloo": (RLOO(**SUMMED), 1.0),
    "dr_grpo": (DrGRPO(length=2), 1 / 2),  # (n - 1) / n, n = 2
    "remax": (ReMax(**SUMMED), 1.0),
    "reinforce_pp": (ReinforcePP(scale="none", **SUMMED), 1.0),
    "reinforce_pp baseline": (ReinforcePP(scale="none", baseline="group", **SUMMED), 1 / 2),
    "pass_at_k of 1": (PassAtK(k=1, scale="none", **SUMMED), 1 / 2),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_gradient_is_the_exact_one(name: str) -> None:
    algorithm, factor = UNBIASED[name]
    of = world(1, binary=False)
    got, want = mean_gradient(algorithm, of), expected_reward(of)
    assert cosine(got, want) > 1 - 1e-6
    torch.testing.assert_close(got, want * factor / 2, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["reinforce", "remax", "reinforce_pp"])
def test_one_reply_a_prompt_is_enough_where_the_baseline_is_not_the_groups(name: str) -> None:
    of = world(2, binary=False)
    got = mean_gradient(UNBIASED[name][0], of, size=1, together=2)
    torch.testing.assert_close(got, expected_reward(of) / 2, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_pass_at_k_training_climbs_pass_at_k(k: int) -> None:
    of = world(3, prompts=1)
    algorithm = PassAtK(k=k, scale="none", **SUMMED)
    got, want = mean_gradient(algorithm, of, size=3), pass_at(k, of)
    torch.testing.assert_close(got, want * (3 / k - 1) / 6, atol=1e-6, rtol=1e-5)


def test_pass_at_k_is_another_thing_than_the_mean() -> None:
    easy, hard = [1.0] * 6 + [0.0], [0.0] * 6 + [1.0]
    of = replace(world(3), rewards=torch.tensor([easy, hard]).double())
    assert cosine(expected_reward(of), pass_at(2, of)) < SAME


@pytest.mark.parametrize(
    "algorithm",
    [
        RLOO(kl=KL_IN_REWARD, **SUMMED),
        Reinforce(kl=KL_IN_REWARD, **SUMMED),
        ReMax(kl=KL_IN_REWARD, **SUMMED),
        ReinforcePP(scale="none", kl=KL_IN_REWARD, **SUMMED),
        DrGRPO(length=2, kl=KL_IN_REWARD),
    ],
    ids=lambda a: type(a).__name__,
)
def test_kl_in_the_reward_pays_the_kl_of_whole_replies(algorithm) -> None:
    of = world(4, prompts=1, binary=False)
    got = mean_gradient(algorithm, of)
    assert cosine(got, less_kl(of, 0.3)) > 1 - 1e-6
    assert cosine(got, expected_reward(of)) < SAME


def test_what_is_known_to_be_biased_is_seen_to_be() -> None:
    """Else the harness would pass anything."""
    of = world(5, prompts=1, binary=False)
    for algorithm in (GRPO(), ReinforcePP(**SUMMED), RLOO(kl=KL(0.3, "k2"), **SUMMED)):
        assert cosine(mean_gradient(algorithm, of), expected_reward(of)) < SAME


def test_stale_replies_weighed_by_their_sequence_have_no_bias() -> None:
    of = world(6, prompts=1, binary=False)
    draw = torch.Generator().manual_seed(7)
    sampler = of.logits.detach() + torch.randn(of.logits.shape, generator=draw).double()
    uncut = {"importance_cap": 1e9, "max_staleness": 1}
    cosines = {}
    for level in ("token", "sequence", "geometric"):
        how = Rollout(importance_level=level, **uncut)
        got = mean_gradient(RLOO(**SUMMED), of, sampler=sampler, correction=how)
        cosines[level] = cosine(got, expected_reward(of))
    plain = mean_gradient(RLOO(**SUMMED), of, sampler=sampler)
    cosines["none"] = cosine(plain, expected_reward(of))
    assert cosines["sequence"] > 1 - 1e-6
    assert max(cosines[level] for level in ("token", "geometric", "none")) < SAME


def test_an_entropy_bonus_climbs_the_entropy_of_tokens() -> None:
    """The states where they are drawn are held, so that it is not the entropy of whole replies."""
    of = world(8)
    silent = replace(of, rewards=torch.zeros_like(of.rewards))
    got = mean_gradient(RLOO(entropy=Entropy(1.0), **SUMMED), silent)
    table = of.logits.log_softmax(-1)
    spread = -(table.exp() * table).sum(-1)
    reached = torch.cat([torch.ones(2, 1), table[:, 0, 1:].exp().detach()], 1)
    (want,) = torch.autograd.grad((reached * spread).sum(1).mean(), of.logits)
    torch.testing.assert_close(got, want / 2, atol=1e-6, rtol=1e-5)
    whole = exact(of, lambda p: -(p * p.log()).sum(1).mean())
    assert cosine(got, whole) < SAME
