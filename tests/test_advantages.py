"""Advantages against golden vectors, numpy twins, and the groups that break them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from upslope import advantages

GROUPED = {
    "centred": advantages.centred,
    "standardised": advantages.standardised,
    "leave_one_out": advantages.leave_one_out,
    "batch_standardised": advantages.batch_standardised,
}


def twin(name: str, rewards: np.ndarray, group: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The definition, one trajectory at a time, in double precision."""
    out = np.zeros(len(rewards))
    for i in range(len(rewards)):
        members = rewards[(group == group[i]) & valid]
        if not valid[i] or len(members) < 2:
            continue
        if name == "leave_one_out":
            others = [j for j in np.flatnonzero((group == group[i]) & valid) if j != i]
            out[i] = rewards[i] - rewards[others].mean()
        else:
            out[i] = rewards[i] - members.mean()
        if name == "standardised":
            out[i] /= members.std(ddof=1) + 1e-6
    if name == "batch_standardised":
        out /= out[valid].std(ddof=1) + 1e-6
    return out


def of(name: str, rewards, group=None, valid=None) -> torch.Tensor:
    n = len(rewards)
    return GROUPED[name](
        torch.tensor(rewards),
        torch.zeros(n, dtype=torch.int64) if group is None else torch.tensor(group),
        torch.ones(n, dtype=torch.bool) if valid is None else torch.tensor(valid),
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [("standardised", 0.866024), ("leave_one_out", 0.666667), ("centred", 0.5)],
)
def test_golden(name, size):
    got = of(name, [1.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(got, size * torch.tensor([1.0, -1, -1, 1]), atol=1e-6, rtol=0)


def test_batch_standardised_by_hand():
    # Centred: +-0.5 and +-2; variance of the four with n - 1: (0.5 + 8) / 3.
    got = of("batch_standardised", [1.0, 0.0, 5.0, 1.0], [0, 0, 1, 1])
    want = torch.tensor([0.5, -0.5, 2, -2]) / (8.5 / 3) ** 0.5
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_less_baseline_leaves_out_the_invalid():
    valid = torch.tensor([True, True, False])
    got = advantages.less_baseline(torch.tensor([1.0, 0.0, 9.0]), valid, 0.25)
    assert got.tolist() == [0.75, -0.25, 0.0]


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("seed", range(5))
def test_twin_on_ragged_interleaved_groups_with_gaps_in_their_ids(name, seed):
    draw = np.random.default_rng(seed)
    rewards = draw.normal(size=40).round(2)
    group = 3 * draw.integers(0, 12, 40) - 7
    valid = draw.random(40) < 0.8
    got = of(name, rewards.astype(np.float32), group, valid)
    np.testing.assert_allclose(got, twin(name, rewards, group, valid), atol=2e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_order_of_rows_means_nothing(name):
    rewards, group = [1.0, 0.0, 0.5, 3.0, 2.0, 7.0], [0, 0, 0, 1, 1, 1]
    order = [3, 0, 5, 2, 4, 1]
    shuffled = of(name, [rewards[i] for i in order], [group[i] for i in order])
    torch.testing.assert_close(shuffled, of(name, rewards, group)[order])


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize(
    ("rewards", "valid"),
    [
        ([5.0], [True]),
        ([5.0], [False]),
        ([0.1] * 7, [True] * 7),
        ([1e4 + 0.1] * 3, [True] * 3),
        ([1.0, 0.0, 0.0], [True, False, False]),
        ([1.0, 0.0, 3.0], [False, False, False]),
        ([0.7, 0.7, float("nan")], [True, True, False]),
    ],
)
def test_nothing_to_compare_is_exactly_no_signal(name, rewards, valid):
    assert of(name, rewards, valid=valid).tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize("name", GROUPED)
def test_invalid_members_do_not_vote(name):
    with_them = of(name, [1.0, 1e6, 0.0, float("nan")], valid=[True, False, True, False])
    without = of(name, [1.0, 0.0])
    assert with_them[[0, 2]].tolist() == without.tolist()
    assert with_them[[1, 3]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("around", [1.0, 1000.0])
def test_near_equal_rewards_do_not_cancel(name, around):
    """Differences of a few last bits, which a rounded mean would drown."""
    step = np.spacing(np.float32(around))
    rewards = np.float32(around) + step * np.array([0, 1, 2, 5, 1, 0, 3, 2], dtype=np.float32)
    group = np.zeros(8, dtype=np.int64)
    valid = np.ones(8, dtype=bool)
    want = twin(name, rewards.astype(np.float64), group, valid)
    np.testing.assert_allclose(of(name, rewards, group, valid), want, rtol=1e-4)


@pytest.mark.parametrize("name", GROUPED)
def test_a_group_sums_to_nothing(name):
    got = of(name, [3.0, -1.0, 0.5, 2.0, 0.0], [0, 0, 0, 1, 1])
    assert got[:3].sum().abs() < 1e-6
    assert got[3:].sum().abs() < 1e-6


def test_declared_shapes_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        advantages.centred(torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.ones(3) > 0)


def test_soft_overlong_punishment():
    """DAPO's own numbers: of at most 14,000 tokens the last 2,000 cost up to 1."""
    soft = advantages.Overlong(14_000, 2_000)
    lengths = torch.tensor([0.0, 12_000.0, 12_500.0, 13_000.0, 14_000.0, 15_000.0])
    assert soft.penalty(lengths).tolist() == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert advantages.Overlong(mask=True).penalty(lengths).tolist() == [0.0] * 6
    for limit, cache in ((14, 0), (0, 2), (2, 3), (-1, -1)):
        with pytest.raises(ValueError, match=r"must lie between 1 and overlong\.limit"):
            advantages.Overlong(limit, cache)


def test_scaled_by_name():
    rewards, group = torch.tensor([1.0, 0, 3, 5]), torch.tensor([7, 7, 2, 2])
    valid = torch.ones(4, dtype=torch.bool)
    for how, want in (
        ("group", advantages.standardised),
        ("batch", advantages.batch_standardised),
        ("none", advantages.centred),
    ):
        given = (rewards, group, valid)
        assert torch.equal(advantages.scaled(how, *given), want(*given))


def test_mixed_groups_are_those_whose_valid_rewards_differ():
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.1, 0.1, 0.1, 4.0])
    group = torch.tensor([5, 3, 5, 3, 9, 9, 9, 9])
    valid = torch.tensor([True] * 7 + [False])
    want = [False, True, False, True, False, False, False, False]
    assert advantages.mixed(rewards, group, valid).tolist() == want


def twin_best_of(rewards, k, how):
    """Over all subsets, one by one."""
    best = {s: max(rewards[i] for i in s) for s in combinations(range(len(rewards)), k)}
    values = np.array([*best.values()])
    own = [np.mean([b for s, b in best.items() if i in s]) for i in range(len(rewards))]
    if np.ptp(values) == 0:
        return np.zeros(len(rewards))
    return (np.array(own) - values.mean()) / (values.std() if how == "group" else 1.0)


def test_pass_at_k_golden():
    """objectives.md 4.9: 2 of 8 right, k = 4."""
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0])
    got = advantages.best_of(rewards, torch.zeros(8).long(), torch.ones(8).bool(), 4, "group")
    want = torch.where(rewards == 1, 0.522233, -0.174078)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    assert abs(float(got.sum())) < 1e-5


@pytest.mark.parametrize("how", ["group", "none"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_best_of_k_is_that_over_all_subsets(k, how):
    draw = np.random.default_rng(k)
    several, binary = draw.normal(size=5), (draw.random(6) < 0.4).astype(float)
    binary[:2] = 0, 1
    rewards = np.concatenate([several, binary, [9.0]]).astype(np.float32)
    group = torch.tensor([4] * 5 + [2] * 6 + [4])
    valid = torch.tensor([True] * 11 + [False])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(k))
    args = (torch.from_numpy(rewards)[order], group[order], valid[order])
    got = advantages.best_of(*args, k, how)[order.argsort()]
    want = [*twin_best_of(rewards[:5], k, how), *twin_best_of(rewards[5:11], k, how), 0.0]
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_best_of_1_is_the_mean_and_equal_or_few_have_no_signal():
    rewards, one = torch.tensor([0.1, 0.7, 0.3]), torch.zeros(3).long()
    valid = torch.ones(3).bool()
    got = advantages.best_of(rewards, one, valid, 1, "none")
    torch.testing.assert_close(got, advantages.centred(rewards, one, valid))
    assert (advantages.best_of(torch.full((3,), 1 / 3), one, valid, 2, "group") == 0).all()
    assert (advantages.best_of(rewards, one, valid, 3, "group") == 0).all()
