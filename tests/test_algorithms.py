"""Each algorithm's numbers, by hand, on batches small enough to see through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from records import group, invalid, problem, segment, trajectory
from upslope.advantages import Overlong
from upslope.algorithms import ALGORITHMS
from upslope.algorithms.cispo import CISPO
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.reinforce import Reinforce
from upslope.algorithms.rloo import RLOO
from upslope.algorithms.sft import SFT
from upslope.batch import Batch, Outputs
from upslope.components import build, find
from upslope.losses import KL
from upslope.types import Group

GROUPED = ["cispo", "dr_grpo", "grpo", "gspo", "rloo"]
HELD = {"constrained": {"costs": {"length": {"budget": 1, "start": 0.5}}}}
GOLDEN = [1.0, 0.0, 0.0, 1.0]
SIGNS = torch.tensor([1.0, -1, -1, 1])


def per_row(algorithm, batch: Batch) -> torch.Tensor:
    """Advantages, which must be the same on all trained tokens of a row and 0 elsewhere."""
    got = algorithm.advantages(batch)
    assert (got[~batch.trained] == 0).all()
    first = got.gather(1, batch.trained.int().argmax(1, keepdim=True))
    assert torch.equal(got, first * batch.trained)
    return first[:, 0]


def columns_of(algorithm, batch: Batch) -> Batch:
    """The batch with what the loop fills before its updates."""
    here = {"old_logprobs": -batch.trained.float(), "ref_logprobs": -2 * batch.trained.float()}
    zeros = torch.zeros(batch.tokens.shape)  # of those that have a critic
    batch = replace(batch, **here, values=zeros, q=zeros)
    return replace(batch, advantages=algorithm.advantages(batch))


def update_loss(algorithm, batch: Batch, logprobs: torch.Tensor) -> float:
    """What the learner sums."""
    loss, _ = algorithm.loss(Outputs(logprobs), batch)
    return float(torch.where(batch.trained, loss * algorithm.weights(batch), 0.0).sum())


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [
        (GRPO(), 0.866024),
        (RLOO(), 0.666667),
        (DrGRPO(), 0.5),
        (CISPO(), 0.866024),
        (CISPO(scale="none"), 0.5),
        # One group is the whole batch, so that its std is the group's.
        (CISPO(scale="batch"), 0.866024),
        (GRPO(scale="none"), 0.5),
        (GSPO(), 0.866024),
    ],
    ids=repr,
)
def test_golden_advantages(algorithm, size):
    got = per_row(algorithm, Batch.of([group(GOLDEN)]))
    torch.testing.assert_close(got, size * SIGNS, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", GROUPED)
def test_a_trajectory_of_two_segments_votes_once(name):
    algorithm = build(find(ALGORITHMS, name, "algorithm"), {}, "algorithm")
    of = problem()
    double = trajectory(of, [segment([4, 5]), segment([6, 7, 8])], 1.0)
    rest = [trajectory(of, [segment([9])], r, m) for m, r in enumerate([0.0, 0.0, 1.0], 1)]
    got = per_row(algorithm, Batch.of([Group(of, (double, *rest))]))
    want = per_row(algorithm, Batch.of([group(GOLDEN)]))
    torch.testing.assert_close(got, want[[0, 0, 1, 2, 3]])


# The battery asks it of distill, too, which needs a teacher's column.
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "distill"])
def test_an_invalid_member_neither_votes_nor_learns(name):
    algorithm = build(find(ALGORITHMS, name, "algorithm"), HELD.get(name, {}), "algorithm")
    rewards = [1.0, invalid(100.0), 0.0, 0.5]
    replies = [[4, 5], [6, 7, 8], [9], [4, 6]]
    kept = group([r for r in rewards if r != rewards[1]], [replies[i] for i in (0, 2, 3)])
    greedy = kept.trajectories[2:]  # what ReMax compares with
    batch = Batch.of([replace(group(rewards, replies), greedy=greedy)])
    fewer = Batch.of([replace(kept, greedy=greedy)])
    rows = torch.tensor([0, 2, 3])
    kept = batch.rows(rows)
    batch, fewer = (columns_of(algorithm, b) for b in (batch, fewer))
    for column in (algorithm.advantages, algorithm.weights):
        assert (column(batch)[1] == 0).all()
        torch.testing.assert_close(column(batch)[rows, : kept.tokens.shape[1]], column(fewer))


def test_grpo_loss_by_hand():
    # Replies of 2 and 1 tokens, rewards 1 and 0: advantages +-(0.5 / (sqrt(0.5) + 1e-6)).
    batch = Batch.of([group([1.0, 0.0], [[4, 5], [6]])])
    batch = replace(batch, advantages=GRPO().advantages(batch))
    old = torch.where(batch.trained, -1.0, 0.0)
    batch = replace(batch, old_logprobs=old)
    ratios = torch.tensor([[1.5, 0.9], [0.5, 1.0]])
    now = old.clone()
    now[batch.trained] += ratios.log().flatten()[:3]
    a = 0.5 / (0.5**0.5 + 1e-6)
    # First token clipped at 1.2; the wrong reply's token clipped from below at 0.8.
    want = {
        "sequence": ((-1.2 * a - 0.9 * a) / 2 + 0.8 * a) / 2,
        "token": (-1.2 * a - 0.9 * a + 0.8 * a) / 3,
        "prompt": (-1.2 * a - 0.9 * a + 0.8 * a) / 3,
    }
    for how, loss in want.items():
        assert update_loss(GRPO(aggregation=how), batch, now) == pytest.approx(loss, rel=1e-5)
    _, metrics = GRPO().loss(Outputs(now), batch)
    assert metrics["clip/share"][batch.trained].tolist() == [1.0, 0.0, 1.0]
    assert update_loss(GRPO(clip_high=0.6), batch, now) == pytest.approx(
        ((-1.5 * a - 0.9 * a) / 2 + 0.8 * a) / 2, rel=1e-5
    )


def test_gspo_clips_whole_replies():
    # Log-ratios of 0.2 and 0 and of -0.3: ratios of e^0.1 and e^-0.3 for the replies.
    batch = Batch.of([group([1.0, 0.0], [[4, 5], [6]])])
    batch = replace(batch, advantages=GSPO().advantages(batch))
    batch = replace(batch, old_logprobs=torch.where(batch.trained, -1.0, 0.0))
    now = batch.old_logprobs.clone()
    now[batch.trained] += torch.tensor([0.2, 0.0, -0.3])
    a = 0.5 / (0.5**0.5 + 1e-6)
    wide = GSPO(clip_low=0.5, clip_high=0.5)
    assert update_loss(wide, batch, now) == pytest.approx(a * (np.exp(-0.3) - np.exp(0.1)) / 2)
    narrow = update_loss(GSPO(), batch, now)
    assert narrow == pytest.approx(a * ((1 - 3e-4) - (1 + 4e-4)) / 2, rel=1e-4)
    _, metrics = GSPO().loss(Outputs(now), batch)
    assert metrics["clip/share"][batch.trained].tolist() == [1.0, 1.0, 1.0]
    _, metrics = GSPO(clip_high=0.2).loss(Outputs(now), batch)
    assert metrics["clip/share"][batch.trained].tolist() == [0.0, 0.0, 1.0]


SILENT = [
    group([1.0, 0.0, 0.0], [[4, 5], [6], [7]], id="mixed"),
    group([1.0, 1.0], [[4], [5, 6, 7]], id="silent"),
    group([0.0, 0.5], [[4], [5]], id="other"),
]


@pytest.mark.parametrize("name", GROUPED)
def test_dropped_groups_are_as_if_they_had_not_been_played(name):
    counting, dropping, sampling = (
        build(find(ALGORITHMS, name, "algorithm"), {"zero_variance": how}, "algorithm")
        for how in ("count", "drop", "resample")
    )
    whole, fewer = Batch.of(SILENT), Batch.of([SILENT[0], SILENT[2]])
    whole = replace(whole, advantages=dropping.advantages(whole))
    fewer = replace(fewer, advantages=counting.advantages(fewer))
    rows, width = torch.tensor([0, 1, 2, 5, 6]), fewer.tokens.shape[1]
    torch.testing.assert_close(whole.advantages[rows, :width], fewer.advantages)
    got = dropping.weights(whole)
    torch.testing.assert_close(got[rows, :width], counting.weights(fewer))
    assert (got[3:5] == 0).all()
    weights = counting.weights(whole)
    assert (weights[3:5][whole.trained[3:5]] > 0).all()
    assert [sampling.keep(g) for g in SILENT] == [True, False, True]
    assert all(which.keep(g) for which in (counting, dropping) for g in SILENT)
    assert torch.equal(sampling.weights(whole), weights)
    with pytest.raises(ValueError, match="needs advantages"):
        dropping.weights(replace(whole, advantages=None))


def test_invalid_members_do_not_make_a_group_worth_keeping():
    sampling = GRPO(zero_variance="resample")
    assert not sampling.keep(group([1.0, invalid(0.0), 1.0]))
    assert sampling.keep(group([1.0, invalid(0.0), 0.0]))


def cut(rewards: list[float], which: set[int]) -> Group:
    """A group of which some members met the length limit."""
    whole = group(rewards, [[4, 5], [6], [7, 8, 9], [4]])
    plays = [
        replace(t, turns=(replace(t.turns[0], stop_reason="length"),)) if i in which else t
        for i, t in enumerate(whole.trajectories)
    ]
    return replace(whole, trajectories=tuple(plays))


@pytest.mark.parametrize("name", [*GROUPED, "reinforce"])
def test_masked_trajectories_leave_the_loss_and_vote_all_the_same(name):
    plain, masking = (
        build(find(ALGORITHMS, name, "algorithm"), {"overlong": {"mask": m}}, "algorithm")
        for m in (False, True)
    )
    batch = Batch.of([cut(GOLDEN, {2, 3})])
    assert batch.truncated.tolist() == [False, False, True, True]
    votes, kept = (a.advantages(batch) for a in (plain, masking))
    assert torch.equal(kept[:2], votes[:2])
    assert (votes[2:][batch.trained[2:]] != 0).all() or name == "reinforce"
    assert (kept[2:] == 0).all()
    rest = batch.rows(torch.tensor([0, 1]))
    got = masking.weights(replace(batch, advantages=kept))
    assert (got[2:] == 0).all()
    torch.testing.assert_close(got[:2, : rest.tokens.shape[1]], plain.weights(rest))


def test_length_is_punished_before_the_baseline():
    # Replies of 2, 1, 3 and 1 tokens; beyond 1 token half a point each, from 3 on 1.
    soft = DrGRPO(overlong=Overlong(limit=3, cache=2))
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0]) - torch.tensor([0.5, 0.0, 1.0, 0.0])
    got = per_row(soft, Batch.of([cut(GOLDEN, set())]))
    torch.testing.assert_close(got, rewards - rewards.mean())
    assert "equal_rewards_no_signal" not in soft.claims


@pytest.mark.parametrize("name", [*GROUPED, "reinforce"])
def test_an_entropy_bonus_is_paid_per_token_and_named(name):
    settings = {"entropy": {"coefficient": 0.3}}
    algorithm = build(find(ALGORITHMS, name, "algorithm"), settings, "algorithm")
    assert algorithm.reads == {"logprobs", "entropy"}
    batch = Batch.of([group([0.0, 0.0], [[4, 5], [6]])], algorithm.start())
    now = torch.where(batch.trained, -1.0, 0.0)
    batch = replace(batch, old_logprobs=now, advantages=torch.zeros(now.shape))
    entropy = torch.arange(10.0).view(2, 5).requires_grad_()
    loss, metrics = algorithm.loss(Outputs(now, entropy), batch)
    torch.testing.assert_close(loss, -0.3 * entropy)
    assert torch.equal(metrics["entropy/mean"], entropy.detach())
    assert metrics["entropy/coefficient"].unique().item() == pytest.approx(0.3)
    with pytest.raises(ValueError, match="needs the entropy"):
        algorithm.loss(Outputs(now), batch)


@pytest.mark.parametrize("name", [*GROUPED, "reinforce"])
def test_an_adaptive_bonus_is_in_the_algorithms_state(name):
    settings = {"entropy": {"target": 0.5, "step": 0.01}}
    algorithm = build(find(ALGORITHMS, name, "algorithm"), settings, "algorithm")
    state = algorithm.start()
    for entropy, paid in ((0.2, 0.01), (0.4, 0.02), (0.6, 0.0), (0.5, 0.0)):
        state = algorithm.advance(state, {"entropy/mean": entropy, "reward/mean": 0.0})
        batch = replace(Batch.of([group([0.0, 0.0])], state), old_logprobs=torch.zeros(2, 6))
        batch = replace(batch, advantages=torch.zeros(2, 6))
        _, metrics = algorithm.loss(Outputs(torch.zeros(2, 6), torch.ones(2, 6)), batch)
        assert metrics["entropy/coefficient"].unique().item() == pytest.approx(paid)


def test_dr_grpo_divides_by_its_configured_length_whatever_the_padding():
    algorithm = DrGRPO(length=10)
    batch = Batch.of([group([1.0, 0.0], [[4, 5], [6]])])
    batch = replace(batch, advantages=algorithm.advantages(batch), old_logprobs=batch.tokens * 0.0)
    now = torch.zeros(batch.tokens.shape)
    # At ratio 1: -(0.5 * 2 tokens - 0.5 * 1 token) / (2 replies * 10).
    assert update_loss(algorithm, batch, now) == pytest.approx(-0.025)
    wide = Batch.of([group([1.0, 0.0], [[4, 5], [6]]), group([0.0], [[4] * 30], id="other")])
    wide = wide.rows(torch.tensor([0, 1, 2]))
    assert wide.tokens.shape[1] > 2 * batch.tokens.shape[1]
    assert algorithm.weights(wide)[wide.trained].unique().item() == pytest.approx(1 / 30)


def test_cispo_keeps_a_gradient_where_ppo_clips():
    batch = Batch.of([group([1.0, 0.0], [[4], [6]])])
    batch = replace(batch, advantages=CISPO().advantages(batch))
    batch = replace(batch, old_logprobs=torch.where(batch.trained, -3.0, 0.0))
    now = torch.where(batch.trained, -1.0, 0.0).requires_grad_()  # a ratio of 7.4
    for algorithm, want in ((CISPO(weight_max=5.0), 5.0), (GRPO(), 0.0)):
        loss, metrics = algorithm.loss(Outputs(now), batch)
        (grad,) = torch.autograd.grad(loss[0].sum(), now)
        a = float(batch.advantages[0].max())
        assert grad[0][batch.trained[0]].item() == pytest.approx(-want * a)
        assert metrics["clip/share"][0][batch.trained[0]].item() == 1.0


def test_reinforce_baseline_is_a_moving_average_of_past_rewards():
    algorithm = Reinforce(decay=0.9)
    state = algorithm.start()
    assert per_row(algorithm, Batch.of([group([1.0, 0.0])], state)).tolist() == [1.0, 0.0]
    for mean in (1.0, 0.5):
        state = algorithm.advance(state, {"reward/mean": mean})
    assert state == {"baseline": pytest.approx(0.9 * 0.1 + 0.05)}
    got = per_row(algorithm, Batch.of([group([1.0, 0.0])], state))
    torch.testing.assert_close(got, torch.tensor([0.86, -0.14]))
    assert Reinforce(decay=1.0).advance({"baseline": 0.0}, {"reward/mean": 3.0})["baseline"] == 0
    down = {"reward/mean": 0.0, "reward/invalid_share": 1.0}  # a judge that gave no reward
    assert algorithm.advance(state, down) == state


def test_sft_is_the_mean_negative_log_probability():
    batch = Batch.of([group([1.0], [[4, 5, 6]], id="a"), group([1.0], [[7]], id="b")])
    now = torch.where(batch.trained, -2.0, 0.0)
    now[1] *= 2
    assert update_loss(SFT(), batch, now) == pytest.approx((3 * 2 + 4) / 4)
    assert update_loss(SFT(aggregation="sequence"), batch, now) == pytest.approx((2 + 4) / 2)


def test_kl_in_the_reward_is_taken_off_before_the_baseline():
    algorithm = RLOO(kl=KL(0.3, "k1", "reward"))
    of = problem()
    plays = [
        trajectory(of, [segment([4, 5]), segment([6])], 1.0),
        trajectory(of, [segment([7, 8])], 0.25, 1),
        trajectory(of, [segment([9])], 0.0, 2),
    ]
    batch = Batch.of([Group(of, tuple(plays))])
    draw = np.random.default_rng(0)
    old, ref = (-draw.random(batch.tokens.shape) for _ in range(2))
    filled = replace(
        batch,
        old_logprobs=torch.tensor(old, dtype=torch.float32),
        ref_logprobs=torch.tensor(ref, dtype=torch.float32),
    )
    by_row = ((old - ref) * batch.trained.numpy()).sum(1)
    reward = np.array([1.0, 0.25, 0.0]) - 0.3 * np.array(
        [by_row[0] + by_row[1], by_row[2], by_row[3]]
    )
    want = reward - (reward.sum() - reward) / 2
    got = per_row(algorithm, filled)
    np.testing.assert_allclose(got, want[[0, 0, 1, 2]], rtol=1e-5)
    with pytest.raises(ValueError, match="needs old_logprobs and ref_logprobs"):
        algorithm.advantages(batch)


@pytest.mark.parametrize("kind", ["k2", "k3"])
@pytest.mark.parametrize("name", [*GROUPED, "reinforce"])
def test_kl_in_the_loss_is_added_per_token_and_acts_without_reward(name, kind):
    settings = {"kl": {"coefficient": 0.5, "kind": kind}}
    algorithm = build(find(ALGORITHMS, name, "algorithm"), settings, "algorithm")
    batch = Batch.of([group([0.0, 0.0], [[4, 5], [6]])], algorithm.start())
    now = torch.where(batch.trained, -1.0, 0.0).requires_grad_()
    batch = replace(batch, old_logprobs=now.detach(), ref_logprobs=torch.full(now.shape, -1.4))
    batch = replace(batch, advantages=algorithm.advantages(batch))
    loss, metrics = algorithm.loss(Outputs(now), batch)
    want = {"k2": 0.5 * 0.4**2, "k3": np.exp(-0.4) - 1 + 0.4}[kind]
    got = loss[batch.trained].detach()
    torch.testing.assert_close(got, torch.full((3,), 0.5 * float(want)), atol=1e-6, rtol=0)
    torch.testing.assert_close(metrics["kl/reference"][batch.trained], 2 * got)
    (grad,) = torch.autograd.grad((loss * algorithm.weights(batch)).sum(), now)
    assert (grad[batch.trained] > 0).all()  # down, towards the reference
    assert "silent_without_advantage" not in algorithm.claims
    with pytest.raises(ValueError, match="needs ref_logprobs"):
        algorithm.loss(Outputs(now), replace(batch, ref_logprobs=None))


def test_needs_and_claims_follow_the_kl():
    for plain, loss, reward in [
        (c(), c(kl=KL(0.1)), c(kl=KL(0.1, "k1", "reward")))
        for c in (GRPO, GSPO, DrGRPO, CISPO, RLOO)
    ]:
        assert plain.needs == frozenset()
        assert loss.needs == {"ref_logprobs"}
        assert reward.needs == {"ref_logprobs", "old_logprobs"}
        assert len(plain.claims) == 4
        assert loss.claims == {"alone_no_signal", "equal_rewards_no_signal"}
        assert reward.claims == plain.claims - {"equal_rewards_no_signal"}
    assert Reinforce().claims == {"policy_gradient", "silent_without_advantage"}
    assert GRPO(kl=KL(0.0, "k1", "loss")).claims == GRPO().claims


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DrGRPO(length=0), "length must be at least 1"),
        (lambda: RLOO(length=0), "length must be at least 1"),
        (lambda: GRPO(overlong=Overlong(limit=3)), "overlong.cache=0 must lie between 1 and"),
        (lambda: Reinforce(decay=1.5), "decay must be between 0 and 1"),
        (lambda: GRPO(kl=KL(0.1, "k1", "loss")), "expected gradient of 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_loss_without_its_columns_says_which():
    batch = Batch.of([group([1.0, 0.0])])
    with pytest.raises(ValueError, match="needs old_logprobs and advantages"):
        GRPO().loss(Outputs(torch.zeros(batch.tokens.shape)), batch)
