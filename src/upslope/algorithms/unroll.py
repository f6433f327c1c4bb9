"""A batch in which each turn of a trajectory is one of its own, for advantages turn by turn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upslope.batch import Batch


@dataclass(frozen=True, eq=False)
class Unrolled:
    """``batch`` has each row once for each turn of its trajectory, which has an id of its own.

    ``row`` [row] is the one that is repeated, for the turn whose tokens are its ``own`` [row
    token]. [turn], in the order of the new ids: ``play``, ``number``, ``earned`` and ``anchor`` of
    each. Single turns are repeated once, in their order, so that what is made of them is the same.
    """

    batch: Batch
    row: Tensor
    own: Tensor
    play: Tensor
    number: Tensor
    earned: Tensor
    anchor: Tensor

    @property
    def total(self) -> Tensor:
        """[turn]: what its whole trajectory earned."""
        return self.batch.by_trajectory(self.batch.reward)[0]

    def grouped(self, reward: Tensor, group: Tensor, valid: Tensor | None = None) -> Batch:
        """The batch with these rewards and groups, [turn]; those not ``valid`` left out. Of a row
        its turn's tokens are asked for: with all, longer plays would weigh more over a batch."""
        of, (_, index) = self.batch, self.batch.by_trajectory(self.batch.reward)
        kept = of.valid if valid is None else of.valid & valid[index]
        given = replace(of, reward=reward[index], group=group[index], valid=kept)
        return replace(given, earned=None, asked=self.own & kept[:, None])

    def folded(self, advantages: Tensor, like: Tensor) -> Tensor:
        """[row token] of the unrolled batch onto the rows it repeats: each turn's on its tokens."""
        own = torch.where(self.own, advantages, 0.0)
        width = own.shape[1]
        out = torch.zeros(like.shape)
        out[:, :width] = torch.zeros(len(like), width).index_add(0, self.row, own)
        return out


def unrolled(batch: Batch) -> Unrolled:
    """Unroll a rollout batch."""
    _, member = torch.unique(batch.trajectory, return_inverse=True)
    turn = torch.where(batch.trained, batch.turn, -1)
    plays = int(member.max()) + 1
    last = torch.zeros(plays, dtype=torch.int64).scatter_reduce(0, member, turn.amax(1), "amax")
    count, longest = (last + 1)[member], int(last.max()) + 1
    row = torch.arange(len(batch)).repeat_interleave(count)
    of = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
    named = torch.unique(member[row] * longest + of)
    where = turn >= 0
    place = (member[:, None] * longest + turn)[where]
    earned, anchor = torch.zeros(plays * longest), torch.full((plays * longest,), -1)
    if batch.earned is not None:
        earned = earned.index_add(0, place, batch.earned[where])
    if batch.anchor is not None:
        anchor = anchor.scatter_reduce(0, place, batch.anchor[where], "amax")
    view = replace(batch, turn=turn).rows(row)
    return Unrolled(
        replace(view, trajectory=member[row] * longest + of),
        row,
        view.turn == of[:, None],
        named // longest,
        named % longest,
        earned[named],
        anchor[named],
    )
