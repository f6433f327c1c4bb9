"""Parts of algorithms that compare two trajectories of one problem: who is compared, and where
a group's loss lies.

A group's pairs are all of its best with all of its worst valid members; its loss is their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from upslope import pairwise
from upslope.batch import Algorithm, Batch, Claim
from upslope.types import Group

CLAIMS: frozenset[Claim] = frozenset(
    {"alone_no_signal", "equal_rewards_no_signal", "silent_without_advantage", "any_policy"}
)


@dataclass(frozen=True)
class Pairs:
    """Pairs as places in a batch's trajectories: [pair]. ``share``: of their group's loss."""

    chosen: Tensor
    rejected: Tensor
    group: Tensor
    share: Tensor


def keep(self: Algorithm, group: Group) -> bool:
    """Groups in which somebody wins."""
    return group.mixed


def advantages(self: Algorithm, batch: Batch) -> Tensor:
    """Which side of its group's pairs a trajectory is on: see ``pairwise.sides``."""
    reward, _ = batch.by_trajectory(batch.reward)
    group, _ = batch.by_trajectory(batch.group)
    valid, _ = batch.by_trajectory(batch.valid)
    return batch.spread(pairwise.sides(reward, group, valid))


def weights(self: Algorithm, batch: Batch) -> Tensor:
    """The mean over groups that have a pair, each at one token."""
    rows, tokens, _ = _anchors(batch, of(batch))
    column = torch.zeros(batch.tokens.shape)
    column[rows, tokens] = 1 / max(len(rows), 1)
    return column


def of(batch: Batch) -> Pairs:
    """All pairs of a filled batch."""
    if batch.advantages is None:
        raise ValueError("pairs need advantages")
    first = batch.trained.int().argmax(1, keepdim=True)
    side, _ = batch.by_trajectory(batch.advantages.gather(1, first)[:, 0])
    group, _ = batch.by_trajectory(batch.group)
    apart = (side[:, None] > 0) & (side < 0) & (group[:, None] == group)
    chosen, rejected = apart.nonzero(as_tuple=True)
    return Pairs(chosen, rejected, group[chosen], -side[chosen] * side[rejected])


def totals(batch: Batch, values: Tensor, counted: Tensor) -> Tensor:
    """A [row token] column summed over each trajectory's ``counted`` tokens, [trajectory]."""
    ids, member = torch.unique(batch.trajectory, return_inverse=True)
    summed = torch.where(counted, values, 0.0).sum(1)
    return summed.new_zeros(len(ids)).index_add(0, member, summed)


def scores(batch: Batch, values: Tensor, how: pairwise.Score) -> Tensor:
    """A column's sum, or its mean, over the tokens of each trajectory that is on a side."""
    assert batch.advantages is not None
    counted = batch.trained & (batch.advantages != 0)
    total = totals(batch, values, counted)
    if how == "sum":
        return total
    return total / totals(batch, torch.ones_like(values), counted).clamp(min=1)


def log_ratio(batch: Batch, logprobs: Tensor) -> Tensor:
    """log pi / ref, [row token]."""
    if batch.ref_logprobs is None:
        raise ValueError("a log-ratio to the reference needs ref_logprobs filled")
    return logprobs - batch.ref_logprobs


def placed(
    batch: Batch, pairs: Pairs, loss: Tensor, margin: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A loss for each pair as [row token], and what the policy makes of the pairs.

    ``margin``: by how much the policy prefers the chosen side, in the loss's own units.
    """
    rows, tokens, ids = _anchors(batch, pairs)
    zeros, group = loss.new_zeros(len(ids)), torch.searchsorted(ids, pairs.group)
    share = pairs.share.to(loss.dtype)
    column = loss.new_zeros(batch.tokens.shape)
    column = column.index_put((rows, tokens), zeros.index_add(0, group, share * loss))
    mass = zeros.index_add(0, group, share)
    seen = {"preference/margin": margin.detach(), "preference/accuracy": margin > 0}
    metrics = {}
    for name, value in seen.items():
        found = zeros.index_add(0, group, share * value) / mass
        row = torch.where(batch.group[:, None] == ids, found, 0.0).sum(1)
        metrics[name] = row[:, None].expand_as(column)
    return column, metrics


def anchored(batch: Batch, unit: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the loss of each unit with a ``live`` row lies: its first one's last trained token.

    ``unit``: the [row] ids of trajectories or groups. Rows, tokens and ids, one a unit.
    """
    rows = live.nonzero()[:, 0]
    ids, place = torch.unique(unit[rows], return_inverse=True)
    first = rows.new_full((len(ids),), len(batch)).scatter_reduce(0, place, rows, "amin")
    last = batch.tokens.shape[1] - 1 - batch.trained[first].flip(1).int().argmax(1)
    return first, last, ids


def _anchors(batch: Batch, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.advantages is not None
    paired = (batch.advantages != 0).any(1) & torch.isin(batch.group, pairs.group)
    return anchored(batch, batch.group, paired)
