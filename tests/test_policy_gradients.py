"""ReMax, REINFORCE++, pass@k training and the dual clip: by hand and against twins in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from records import group, invalid
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.pass_at_k import PassAtK
from upslope.algorithms.reinforce_pp import ReinforcePP
from upslope.algorithms.remax import ReMax
from upslope.algorithms.rloo import RLOO
from upslope.batch import Batch, Outputs
from upslope.batteries.algorithm import check_algorithm
from upslope.batteries.rows import Table, table
from upslope.batteries.rows import gradient as table_gradient
from upslope.launch import train_recipe
from upslope.losses import KL
from upslope.recipe import read
from upslope.types import Group, Reward

PLAYS = Path(__file__).with_name("plays.py")
BANDIT: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": f"{PLAYS}:Digits"},
    "rollout": {"problems": 4, "group": 1, "max_tokens": 1},
    "learner": {"lr": 1e-2},
    "evaluation": {"problems": 1},
    "checkpoint": {"every": 0},
    "stop": {"steps": 2},
    "machine": {"threads": 1},
    "check": {"problems": 1},
}


def beside(of: Group, reward: Reward) -> Group:
    """The group with a greedy play that earned this."""
    return replace(of, greedy=(replace(of.trajectories[0], reward=reward),))


def rows_of(values: torch.Tensor, batch: Batch) -> list[float]:
    """One value a row, which must be the same on all of its trained tokens."""
    first = values.gather(1, batch.trained.int().argmax(1, keepdim=True))
    assert torch.equal(values, first * batch.trained)
    return first[:, 0].tolist()


def test_remax_is_less_what_a_greedy_reply_earned():
    asked = beside(group([1.0, 0.25, invalid(9.0)]), Reward(0.75))
    lone = beside(group([1.0], id="b"), Reward(0.0))
    failed = beside(group([1.0, 0.0], id="c"), invalid(1.0))
    batch = Batch.of([asked, lone, failed])
    assert batch.greedy.isnan().tolist() == [False] * 4 + [True] * 2
    assert rows_of(ReMax().advantages(batch), batch) == [0.25, -0.5, 0.0, 1.0, 0.0, 0.0]
    assert ReMax().needs == {"greedy"}
    assert ReMax(kl=KL(0.1, "k1", "reward")).needs == {"greedy", "old_logprobs", "ref_logprobs"}
    with pytest.raises(ValueError, match="needs a greedy reply"):
        ReMax().advantages(Batch.of([group([1.0, 0.0])]))


def test_the_greedy_reply_is_sampled_beside_the_group_and_paid_for(tmp_path):
    runs = {}
    for name in ("remax", "reinforce"):
        given = {**BANDIT, "algorithm": {"type": name}, "runs": str(tmp_path), "name": name}
        runs[name] = train_recipe(read(given), lambda line: None)
    greedy, plain = (run.metrics()[-1]["ledger/tokens/decode"] for run in runs.values())
    assert greedy == 2 * plain > 0
    played = [r for r in runs["remax"].trajectories("train") if r["stage"] == "train"]
    assert len(played) == 8  # the greedy ones are neither trained on nor written down
    first = runs["remax"].metrics()[0]
    assert first["ratio/first"] == 1
    assert first["answers/distinct_share"] == 1


def tokens(seen: Table) -> dict[int, list[tuple[int, int]]]:
    """The trained tokens of each trajectory, in the order in which they were said."""
    batch = seen.batch
    owner, order = batch.trajectory.tolist(), batch.segment.tolist()
    places = [tuple(map(int, at)) for at in np.argwhere(batch.trained.numpy())]
    return {
        i: sorted((at for at in places if owner[at[0]] == i), key=lambda at: (order[at[0]], at[1]))
        for i in set(owner)
    }


def twin_plus(algorithm: ReinforcePP, seen: Table) -> np.ndarray:
    """REINFORCE++'s gradient by each token's log-probability, one trajectory after the other."""
    batch, now = seen.batch, seen.logprobs.double().numpy()
    old = batch.old_logprobs.double().numpy()
    ref = old if batch.ref_logprobs is None else batch.ref_logprobs.double().numpy()
    said = {i: places for i, places in tokens(seen).items() if places}
    reward = {i: float(batch.reward[places[0][0]]) for i, places in said.items()}
    if algorithm.baseline == "group":
        of = {i: int(batch.group[places[0][0]]) for i, places in said.items()}
        means = {g: np.mean([reward[i] for i in said if of[i] == g]) for g in of.values()}
        reward = {i: r - means[of[i]] for i, r in reward.items()}
    worth = np.zeros(now.shape)
    for i, places in said.items():
        after = 0.0
        for at in reversed(places):
            paid = algorithm.kl.coefficient * (old[at] - ref[at]) if algorithm.kl.in_reward else 0
            after = (reward[i] if at == places[-1] else 0.0) - paid + algorithm.discount * after
            worth[at] = after
    mask = batch.trained.numpy()
    if algorithm.scale == "batch":
        chosen = worth[mask]
        worth = np.where(mask, (worth - chosen.mean()) / (chosen.std(ddof=1) + 1e-6), 0.0)
    rho = np.exp(now - old)
    stopped = np.where(worth > 0, rho > 1 + algorithm.clip_high, rho < 1 - algorithm.clip_low)
    grad = np.where(stopped, 0.0, -worth * rho)
    if algorithm.kl.in_loss:
        grad = grad + algorithm.kl.coefficient * (now - ref)
    return np.where(mask, grad, 0.0) / mask.sum()


@pytest.mark.parametrize(
    "algorithm",
    [
        ReinforcePP(),
        ReinforcePP(discount=0.9, kl=KL(0.3, "k1", "reward")),
        ReinforcePP(baseline="group", kl=KL(0.2, "k2")),
        ReinforcePP(baseline="group", scale="none"),
    ],
    ids=["plain", "kl in reward", "baseline", "unscaled"],
)
def test_reinforce_plus_plus_equals_a_twin(algorithm):
    seen = table(algorithm)
    want = twin_plus(algorithm, seen)
    _, got = table_gradient(algorithm, seen)
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got[..., 0], want, rtol=2e-5, atol=1e-7)


def test_reinforce_plus_plus_needs_no_group_but_for_its_baseline():
    assert "equal_rewards_no_signal" not in ReinforcePP().claims
    assert "equal_rewards_no_signal" in ReinforcePP(baseline="group").claims


@pytest.mark.parametrize("k", [1, 2])
def test_pass_at_k_equals_a_twin(k):
    algorithm = PassAtK(k=k, aggregation="token")
    seen = table(algorithm)
    batch, said = seen.batch, {i: p for i, p in tokens(seen).items() if p}
    rho = np.exp((seen.logprobs - batch.old_logprobs).double().numpy())
    want = np.zeros(rho.shape)
    for number in set(batch.group.tolist()):
        own = [i for i, p in said.items() if int(batch.group[p[0][0]]) == number]
        reward = {i: float(batch.reward[said[i][0][0]]) for i in own}
        sets = [(s, max(reward[i] for i in s)) for s in combinations(own, k)]
        best = np.array([b for _, b in sets])
        if not len(sets) or np.ptp(best) == 0:
            continue
        for i in own:
            worth = (np.mean([b for s, b in sets if i in s]) - best.mean()) / best.std()
            for at in said[i]:
                stopped = rho[at] > 1.2 if worth > 0 else rho[at] < 0.8
                want[at] = 0.0 if stopped else -worth * rho[at]
    _, got = table_gradient(algorithm, seen)
    np.testing.assert_allclose(got[..., 0], want / int(batch.trained.sum()), rtol=2e-5, atol=1e-7)
    assert np.abs(want).max() > 0.1


@pytest.mark.parametrize(
    "algorithm",
    [GRPO(clip_dual=3.0), DrGRPO(length=1, clip_dual=3.0), GSPO(0.2, 0.2, 3.0)],
    ids=lambda a: type(a).__name__,
)
def test_dual_clip_bounds_what_a_wrong_token_can_cost(algorithm):
    """objectives 4.9: at a ratio of 5 and A = -1 the loss is 3, and its gradient 0."""
    batch = Batch.of([group([1.0, 0.0], [[4], [5]])])
    batch = replace(batch, advantages=torch.where(batch.trained, -1.0, 0.0))
    batch = replace(batch, old_logprobs=torch.where(batch.trained, -3.0, 0.0))
    for ratio, loss, slope in ((5.0, 3.0, 0.0), (1.5, 1.5, 1.5)):
        now = (batch.old_logprobs + batch.trained * np.log(ratio)).requires_grad_()
        got, metrics = algorithm.loss(Outputs(now), batch)
        torch.testing.assert_close(got[batch.trained], torch.full((2,), loss))
        (grad,) = torch.autograd.grad(got[batch.trained].sum(), now)
        torch.testing.assert_close(grad[batch.trained], torch.full((2,), slope))
        assert (metrics["clip/share"][batch.trained] == float(slope == 0)).all()
    with pytest.raises(ValueError, match="clip_dual must be above 1"):
        replace(algorithm, clip_dual=0.5)


def test_losses_have_the_gradient_of_their_values():
    for algorithm in (ReinforcePP(clip_dual=1.5), PassAtK(k=2)):
        seen = table(algorithm)
        now = seen.logprobs.double().requires_grad_()
        (grad,) = torch.autograd.grad(algorithm.loss(Outputs(now), seen.batch)[0].sum(), now)
        sides = [algorithm.loss(Outputs(now.detach() + by), seen.batch)[0] for by in (1e-6, -1e-6)]
        numeric = torch.where(seen.batch.trained, (sides[0] - sides[1]) / 2e-6, 0.0)
        near = torch.where(seen.batch.trained, grad, 0.0)
        assert ((numeric - near).abs() > 1e-4).sum() == 0


def test_an_adaptive_kl_is_paid_from_the_state_and_told():
    algorithm = RLOO(kl=KL(0.2, "k1", "reward", target=0.01))
    state = algorithm.advance(algorithm.start(), {"kl/reference": 1.0, "reward/mean": 0.0})
    assert state == {"kl": pytest.approx(0.2 * 1.02)}
    batch = Batch.of([group([0.0, 0.0], [[4], [5]])], {"kl": 0.5})
    old = torch.where(batch.trained, torch.tensor([[-1.0], [-2.0]]), 0.0)
    batch = replace(batch, old_logprobs=old, ref_logprobs=2 * old)
    # Log-ratios of 1 and 2, so that rewards are -0.5 and -1.
    assert rows_of(algorithm.advantages(batch), batch) == [0.5, -0.5]
    batch = replace(batch, advantages=algorithm.advantages(batch))
    _, metrics = algorithm.loss(Outputs(old), batch)
    assert metrics["kl/reference"][batch.trained].tolist() == [1.0, 2.0]
    assert metrics["kl/coefficient"][batch.trained].tolist() == [0.5, 0.5]
    check_algorithm(algorithm)
