"""Groups as tensors: rows, ids, splits and micro-batches."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from records import PROMPT, group, invalid, problem, segment, trajectory
from upslope.batch import Batch, shared_prefix, with_old
from upslope.types import Group, Segment


def rewritten(rewards: tuple[float, float] = (1.0, 0.0)) -> Group:
    """Two plays; the first has two segments, and a third without a trained token."""
    of = problem("rewritten")
    silent = Segment(
        np.array([1, 2]), np.zeros(2, dtype=bool), np.zeros(2), np.full(2, -1, dtype=np.int32)
    )
    first = trajectory(of, [segment([4, 5]), silent, segment([6, 7, 8])], rewards[0])
    return Group(of, (first, trajectory(of, [segment([9])], rewards[1], member=1)))


def mixed() -> Batch:
    return Batch.of([group([1.0, 0.0, 0.5], id="a"), rewritten(), group([2.0], id="b")])


def test_columns_of_a_group():
    batch = Batch.of([group([1.0, 0.0], [[4, 5], [6, 7, 8]], version=3, temperature=0.7)])
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5, 0], [1, 2, 3, 6, 7, 8]]
    assert batch.trained.tolist() == [[False] * 3 + [True] * 2 + [False], [False] * 3 + [True] * 3]
    assert batch.engine_logprobs.tolist() == [[0, 0, 0, -1, -1, 0], [0, 0, 0, -1, -1, -1]]
    assert batch.versions[batch.trained].tolist() == [3] * 5
    temperature = batch.temperature
    torch.testing.assert_close(temperature[batch.trained], torch.full((5,), 0.7))
    assert (temperature[~batch.trained] == 1).all()
    assert batch.length.tolist() == [5, 6]
    assert batch.reward.tolist() == [1.0, 0.0]


def test_greedy_tokens_are_scored_at_temperature_one():
    batch = Batch.of([group([1.0], temperature=0.0)])
    assert (batch.temperature == 1).all()


def test_a_row_is_a_segment_with_something_trained():
    batch = mixed()
    assert batch.group.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert batch.trajectory.tolist() == [0, 1, 2, 3, 3, 4, 5]


def test_segments_of_a_trajectory_count_once():
    batch = mixed()
    reward, member = batch.by_trajectory(batch.reward)
    assert reward.tolist() == [1.0, 0.0, 0.5, 1.0, 0.0, 2.0]
    assert member.tolist() == [0, 1, 2, 3, 3, 4, 5]
    spread = batch.spread(torch.arange(6.0))
    assert (spread[~batch.trained] == 0).all()
    assert [row[t].unique().tolist() for row, t in zip(spread, batch.trained, strict=True)] == [
        [0], [1], [2], [3], [3], [4], [5]
    ]  # fmt: skip


def test_by_trajectory_goes_by_id_in_any_order():
    batch = mixed()
    order = torch.tensor([5, 3, 6, 1, 0, 4, 2])
    shuffled = batch.rows(order)
    again, _ = shuffled.by_trajectory(shuffled.reward)
    assert again.tolist() == batch.by_trajectory(batch.reward)[0].tolist()
    part = batch.rows(torch.tensor([6, 4, 3]))  # ids with gaps, as an update has them
    values, member = part.by_trajectory(part.reward)
    assert values[member].tolist() == part.reward.tolist() == [2.0, 1.0, 1.0]


def test_an_invalid_trajectory_keeps_its_row_and_trains_nothing():
    batch = Batch.of([group([1.0, invalid(7.0), 0.0])])
    assert batch.valid.tolist() == [True, False, True]
    assert batch.trained.any(1).tolist() == [True, False, True]


def test_without_a_trained_token_there_is_no_batch():
    of = problem()
    silent = Segment(np.array([1, 2]), np.zeros(2, dtype=bool), np.zeros(2), -np.ones(2))
    with pytest.raises(ValueError, match="at least one row"):
        Batch.of([Group(of, (replace_segments(silent),))])


def replace_segments(only: Segment):
    return replace(trajectory(problem(), [segment([4])]), segments=(only,))


def test_an_ungraded_trajectory_is_refused():
    ungraded = replace(trajectory(problem("x"), [segment([4])]), reward=None)
    with pytest.raises(ValueError, match="'x' was not graded"):
        Batch.of([Group(ungraded.problem, (ungraded,))])


def test_rows_take_every_column_and_cut_the_padding():
    batch = mixed()
    batch = replace(batch, advantages=torch.rand(batch.tokens.shape))
    part = batch.rows(torch.tensor([5, 0]))
    width = int(batch.length[[5, 0]].max())
    assert part.tokens.shape == part.advantages.shape == (2, width)
    assert width < batch.tokens.shape[1]
    assert torch.equal(part.advantages, batch.advantages[[5, 0], :width])
    assert part.ref_logprobs is None
    assert len(batch.rows(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_updates_cover_every_group_once_and_keep_it_whole(n):
    batch = Batch.of([group([1.0, 0.0], id=str(i)) for i in range(5)])
    batch = batch.rows(torch.tensor([3, 9, 0, 5, 1, 4, 8, 2, 7, 6]))
    parts = list(batch.updates(n, seed=1))
    assert len(parts) == n
    assert sorted(torch.cat(parts).tolist()) == list(range(10))
    owners = [set(batch.group[part].tolist()) for part in parts]
    assert sum(len(o) for o in owners) == 5
    assert max(len(o) for o in owners) - min(len(o) for o in owners) <= 1


def test_updates_are_shuffled_by_their_seed_alone():
    batch = Batch.of([group([1.0, 0.0], id=str(i)) for i in range(6)])
    orders = [[p.tolist() for p in batch.updates(3, seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    fewer = list(batch.updates(7, 0))  # a batch that dynamic sampling left small
    assert sorted(torch.cat(fewer).tolist()) == list(range(12))
    assert [len(part) for part in fewer] == [2] * 6


@pytest.mark.parametrize("couples", ["row", "trajectory", "group"])
@pytest.mark.parametrize("budget", [1, 9, 14, 40, 10_000])
def test_micro_batches_cover_all_rows_and_split_only_what_may_be(couples, budget):
    batch = mixed().rows(torch.tensor([5, 3, 6, 1, 0, 4, 2]))
    parts = [p.tolist() for p in batch.micro(budget, couples)]
    assert sorted(itertools.chain(*parts)) == list(range(7))
    unit = {"row": torch.arange(7), "trajectory": batch.trajectory, "group": batch.group}[couples]
    homes = [set(unit[p].tolist()) for p in parts]
    assert sum(len(h) for h in homes) == len(set(unit.tolist()))
    for part, home in zip(parts, homes, strict=True):
        rows = batch.rows(torch.tensor(part))
        # Whatever rows begin with alike is counted once; a unit that is too large comes alone.
        assert computed(rows) <= budget or len(home) == 1


def computed(batch: Batch) -> int:
    """Tokens that are different or have different ones before them; a row's last is not run."""
    rows = [t[:n].tolist() for t, n in zip(batch.tokens, batch.length, strict=True)]
    return len({tuple(row[:k]) for row in rows for k in range(1, len(row))})


def test_one_micro_batch_where_everything_fits():
    assert len(list(mixed().micro(10_000, "row"))) == 1


def test_shared_prefix_is_at_most_the_shortest_row_less_one():
    batch = Batch.of([group([1.0, 0.0], [[4, 5], [4, 5]])])
    assert shared_prefix(batch.tokens, batch.length) == len(PROMPT) + 1
    batch = Batch.of([group([1.0, 0.0], [[4, 5], [6, 5]])])
    assert shared_prefix(batch.tokens, batch.length) == len(PROMPT)


def test_with_old_takes_the_live_values_detached_only_where_none_are_filled():
    batch = mixed()
    live = torch.rand(batch.tokens.shape, requires_grad=True)
    old = with_old(batch, live).old_logprobs
    assert torch.equal(old, live)
    assert not old.requires_grad
    filled = replace(batch, old_logprobs=torch.zeros(batch.tokens.shape))
    assert with_old(filled, live) is filled
