"""Weights of stale tokens: levels, bounds and dropped sequences, by hand and in a gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from learners import a_learner
from records import problem, segment, trajectory
from upslope import importance
from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch
from upslope.learner import corrected
from upslope.settings import Rollout
from upslope.tally import Tally
from upslope.types import Group

OLD = torch.tensor([[0.0, -1.0, -2.0], [0.0, -0.5, 0.0], [0.0, -1.0, -1.0]])
ENGINE = torch.tensor([[0.0, -1.2, -1.7], [0.0, -0.9, 7.0], [0.0, -1.0, -3.0]])
TRAINED = torch.tensor([[False, True, True], [False, True, False], [False, True, True]])
IDS = torch.tensor([5, 5, 2])  # the first trajectory has two rows


def test_levels_by_hand():
    # Log-ratios 0.2, -0.3 and 0.4 of one trajectory, 0 and 2 of the other.
    token, whole, mean = (
        importance.weighed(OLD, ENGINE, TRAINED, IDS, level)
        for level in ("token", "sequence", "geometric")
    )
    want = torch.tensor([0.2, -0.3, 0.4, 0.0, 2.0]).exp()
    torch.testing.assert_close(token[TRAINED], want)
    torch.testing.assert_close(whole[:, 0].log(), torch.tensor([0.3, 0.3, 2.0]))
    torch.testing.assert_close(mean[:, 0].log(), torch.tensor([0.1, 0.1, 1.0]))
    assert (whole == whole[:, :1]).all()


def test_log_ratios_are_clamped_before_exp():
    far = torch.full((1, 3), 1000.0)
    mask, ids = torch.ones(1, 3, dtype=torch.bool), torch.tensor([0])
    for level in ("token", "sequence", "geometric"):
        for sign in (1, -1):
            got = importance.weighed(sign * far, 0 * far, mask, ids, level)
            torch.testing.assert_close(got.log(), torch.full((1, 3), 20.0 * sign))


def test_what_is_wrong_and_unlikely_is_dropped_whole():
    mean = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.95, 0.95]])
    worth = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    got = importance.unlikely(mean, worth, floor=0.9)
    assert got.tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]


def stale() -> Batch:
    """Two groups of unequal replies; the first trajectory has two segments; old is off engine."""
    groups = []
    for name, replies in (("a", [[4, 5], [6], [7, 8, 9]]), ("b", [[4, 4, 4], [5]])):
        of = problem(name)
        plays = [trajectory(of, [segment(r)], float(m == 0), m) for m, r in enumerate(replies)]
        groups.append(Group(of, tuple(plays)))
    first = groups[0].trajectories[0]
    double = trajectory(first.problem, [segment([4, 5]), segment([6, 2, 3], (7, 1))], 1.0)
    groups[0] = replace(groups[0], trajectories=(double, *groups[0].trajectories[1:]))
    return Batch.of(groups)


LEVELS = [
    Rollout(max_staleness=1, importance_level=level, importance_cap=cap)
    for level in ("sequence", "geometric")
    for cap in (1.5, 1e6)
] + [Rollout(max_staleness=1, importance="opsm", importance_floor=0.9)]


@pytest.mark.parametrize("how", LEVELS, ids=lambda r: f"{r.importance}-{r.importance_level}")
def test_no_micro_batch_changes_a_sequences_weight(how):
    """Also where the old values are those of the very pass, and rows of a trajectory could part."""
    found = []
    for budget in (10_000, 8):
        learner = a_learner(micro_tokens=budget)
        part = stale()
        part = replace(part, advantages=GRPO().advantages(part))
        tally = learner.accumulate(part, GRPO(), budget, how)
        grads = [p.grad.flatten() for _, p in learner.policy.trained() if p.grad is not None]
        found.append((torch.cat(grads), tally.metrics()["importance/mean"]))
    (whole, mean), (parts, same) = found
    assert float((whole - parts).norm() / whole.norm()) < 1e-5
    assert same == pytest.approx(mean, rel=1e-5)


def test_sequence_weights_are_the_twins():
    learner, part = a_learner(), stale()
    part = learner.fill(part, ["old_logprobs"])
    part = replace(part, weights=part.trained.float(), advantages=part.trained.float())
    how = Rollout(max_staleness=1, importance_level="sequence", importance_cap=3.0)
    got = corrected(part, how, Tally(), part.old_logprobs).weights
    apart = (part.old_logprobs - part.engine_logprobs).double().numpy()
    for number in set(part.trajectory.tolist()):
        rows = np.flatnonzero((part.trajectory == number).numpy())
        total = sum(apart[r][part.trained[r].numpy()].sum() for r in rows)
        want = min(math.exp(max(-20.0, min(20.0, total))), 3.0)
        for r in rows:
            np.testing.assert_allclose(got[r][part.trained[r]], want, rtol=1e-5)


def test_dropping_looks_at_the_policy_of_now_also_where_old_is_the_engines():
    """DeepSeek-V3.2's form with old = engine: a reply that is wrong leaves when it has become
    unlikely, and a right one never does."""
    learner, part = a_learner(), stale()
    part = replace(part, advantages=GRPO().advantages(part))
    now = learner.fill(part, ["old_logprobs"]).old_logprobs
    by = torch.where((part.advantages < 0).any(1), 0.5, -0.5)[:, None] * part.trained
    drifted = replace(part, engine_logprobs=now + by, old_logprobs=now + by)
    how = Rollout(max_staleness=1, correction="bypass", importance="opsm", importance_floor=0.9)
    tally = learner.accumulate(drifted, GRPO(), 10_000, how)
    wrong = (part.advantages < 0) & part.trained
    share = float(wrong.sum() / part.trained.sum())
    assert tally.metrics()["importance/outside_share"] == pytest.approx(share)
    kept = [p.grad.clone() for _, p in learner.policy.trained()]
    other = a_learner()
    right = replace(drifted, advantages=drifted.advantages.clamp(min=0))
    other.accumulate(right, GRPO(), 10_000)
    for mine, theirs in zip(kept, (p.grad for _, p in other.policy.trained()), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)
