"""Rows that begin alike as one packed row: what they share is computed once, at any depth.

In the order of their tokens each row shares with the one before it all that it shares with any
earlier one. So each adds one run of tokens of its own, which continues a path through earlier
runs: together a trie. A row's last token predicts nothing, so it is not computed at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from upslope.alike import in_order

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """Runs of about equal length. Those of a family continue the same path.

    ``shape`` is families, runs in each and tokens in each, padding included; ``path`` [family
    path] are packed positions, ``seen`` False on padding. The path of what begins a row is empty.
    """

    shape: tuple[int, int, int]
    path: Int[Tensor, "family path"]
    seen: Bool[Tensor, "family path"]

    @property
    def slots(self) -> int:
        """Tokens, padding included."""
        families, runs, own = self.shape
        return families * runs * own

    def pairs(self) -> int:
        """Query-key pairs as computed, padding included."""
        return self.slots * (self.path.shape[1] + self.shape[2])


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a packed row's tokens are in its blocks, laid end to end and padded.

    ``packed_of`` [slot] is a packed position (0 on padding), ``slot_of`` [packed] its inverse.
    """

    blocks: tuple[Block, ...]
    packed_of: Int[Tensor, " slot"]
    slot_of: Int[Tensor, " packed"]

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        blocks = (replace(b, path=b.path.to(device), seen=b.seen.to(device)) for b in self.blocks)
        return Layout(tuple(blocks), self.packed_of.to(device), self.slot_of.to(device))


@dataclass(frozen=True, eq=False)
class Packed:
    """``tokens`` and ``positions`` [packed], and ``state_of`` [row token]: which packed position's
    hidden state predicts a row's token (-1 where none does: its first token, and padding)."""

    tokens: Int[Tensor, " packed"]
    positions: Int[Tensor, " packed"]
    state_of: Int[Tensor, "row token"]
    layout: Layout


def pack(tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"]) -> Packed:
    """Pack rows: what several of them begin with is there once."""
    order, shared = in_order(tokens, length)
    ends = length.numpy()[order] - 1
    ticks = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    inside = ticks < ends[:, None]
    fresh = inside & (ticks >= shared[:, None])
    count = int(fresh.sum())
    nodes = np.full(fresh.shape, -1)
    nodes[fresh] = np.arange(count)
    # A row's shared tokens were added by the nearest row before it that did not share them.
    nodes = np.maximum.accumulate(nodes)
    blocks, slot_of, slots = [], np.empty(count, dtype=np.int64), 0
    for rows in _alike(nodes, shared, ends - shared):
        block, ids, places = _block(nodes, shared, ends - shared, rows)
        slot_of[ids] = slots + places
        slots += block.slots
        blocks.append(block)
    # Packed in the order of the blocks: where nothing is padded, slots are packed positions.
    by_slot = slot_of.argsort()
    rank = np.empty_like(by_slot)
    rank[by_slot] = np.arange(count)
    packed_of = np.zeros(slots, dtype=np.int64)
    packed_of[slot_of] = rank
    state_of = np.full(tokens.shape, -1)
    state_of[order, 1:] = np.where(inside, rank[nodes], -1)[:, :-1]
    layout = Layout(
        tuple(replace(b, path=torch.from_numpy(rank)[b.path]) for b in blocks),
        torch.from_numpy(packed_of),
        torch.from_numpy(slot_of[by_slot]),
    )
    return Packed(
        torch.from_numpy(tokens.numpy()[order][fresh][by_slot]),
        torch.from_numpy(ticks[fresh][by_slot]),
        torch.from_numpy(state_of),
        layout,
    )


def _alike(nodes: Numbers, shared: Numbers, own: Numbers) -> Iterator[Numbers]:
    """The rows of each block, family by family."""
    rows = own.nonzero()[0]
    parent = np.where(shared > 0, nodes[np.arange(len(nodes)), shared - 1], -1)[rows]
    _, family, members = np.unique(
        (parent + 1) * 64 + _size(own[rows]), return_inverse=True, return_counts=True
    )
    kind = ((parent < 0) * 64 + _size(own[rows])) * 64 + _size(members)[family]
    for one in np.unique(kind):
        chosen = (kind == one).nonzero()[0]
        yield rows[chosen[family[chosen].argsort(kind="stable")]]


def _size(count: Numbers) -> Numbers:
    """Equal only for counts within a factor of four, which bounds the padding."""
    sizes: Numbers = np.ceil(np.log2(count + 1) / 2).astype(np.int64)
    return sizes


def _block(
    nodes: Numbers, shared: Numbers, own: Numbers, rows: Numbers
) -> tuple[Block, Numbers, Numbers]:
    """A block of these rows' runs, its path in nodes; each of its nodes, and that one's slot."""
    last = np.where(shared[rows] > 0, nodes[rows, shared[rows] - 1], -1)
    first = np.flatnonzero(np.diff(last, prepend=-2))
    family = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows)))
    member = np.arange(len(rows)) - first[family]
    shape = (len(first), int(member.max()) + 1, int(own[rows].max()))
    ticks = np.arange(shape[2])
    real = ticks < own[rows, None]
    ids = nodes[rows, shared[rows]][:, None] + ticks
    places = ((family * shape[1] + member) * shape[2])[:, None] + ticks
    heads = rows[first]
    width = int(shared[heads].max())
    seen = np.arange(width) < shared[heads, None]
    path = np.where(seen, nodes[heads, :width], 0)
    block = Block(shape, torch.from_numpy(path), torch.from_numpy(seen))
    return block, ids[real], places[real]
