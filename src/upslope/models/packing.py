"""Rows that share a prompt as one packed row: computed once, with where each state is.

What all rows begin with (few-shot examples, a system prompt) is stored first, once: the root. Then
each group's common prefix after it, once, and its rows' suffixes; positions restart with each. A
row's last token predicts nothing, so it is not computed at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from upslope.batch import shared_prefix


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a packed row's tokens are, as padded indices into it.

    ``prefix`` [group prefix] and ``suffix`` [group member suffix] index the packed row, with
    ``prefix_real`` and ``suffix_real`` False on padding. The first ``root`` columns of ``prefix``
    are the same in every group. ``order`` maps each packed position to its place in the
    concatenation of the root, the rest of the prefixes and the suffixes, flattened.
    """

    prefix: Int[Tensor, "group prefix"]
    prefix_real: Bool[Tensor, "group prefix"]
    suffix: Int[Tensor, "group member suffix"]
    suffix_real: Bool[Tensor, "group member suffix"]
    order: Int[Tensor, " packed"]
    root: int = 0

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        moved: dict[str, Any] = {
            k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **moved)

    def pairs(self) -> tuple[int, int]:
        """Query-key pairs as computed, padding included: within prefixes, and of suffixes."""
        groups, prefix = self.prefix.shape
        _, members, suffix = self.suffix.shape
        within = self.root**2 + groups * (prefix - self.root) * prefix
        return within, groups * members * suffix * (prefix + suffix)


@dataclass(frozen=True, eq=False)
class Packed:
    """``tokens`` and ``positions`` [packed], and ``state_of`` [row token]: which packed position's
    hidden state predicts a row's token (-1 where none does: its first token, and padding)."""

    tokens: Int[Tensor, " packed"]
    positions: Int[Tensor, " packed"]
    state_of: Int[Tensor, "row token"]
    layout: Layout


def pack(
    tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"], group: Int[Tensor, " row"]
) -> Packed:
    """Pack rows: what all begin with once, then each group's common prefix once."""
    ids = torch.unique(group)
    members = [(group == g).nonzero()[:, 0] for g in ids]
    prefixes = [shared_prefix(tokens[rows], length[rows]) for rows in members]
    extra = length - 1 - torch.tensor(prefixes)[torch.searchsorted(ids, group)]
    shape = (len(ids), max(len(rows) for rows in members), int(extra.max()))
    prefix = torch.full((len(ids), max(prefixes)), -1)
    suffix = torch.full(shape, -1)
    state_of = torch.full(tokens.shape, -1)
    ticks = torch.arange(tokens.shape[1])
    root = min(shared_prefix(tokens, length), *prefixes) if len(ids) > 1 else 0
    pieces, positions, at = [tokens[0, :root]], [ticks[:root]], root
    for g, (rows, shared) in enumerate(zip(members, prefixes, strict=True)):
        prefix[g, :shared] = torch.cat([ticks[:root], at + ticks[: shared - root]])
        state_of[rows, 1 : shared + 1] = prefix[g, :shared]
        pieces.append(tokens[rows[0], root:shared])
        positions.append(ticks[root:shared])
        at += shared - root
        for m, row in enumerate(rows.tolist()):
            own = int(extra[row])
            suffix[g, m, :own] = at + ticks[:own]
            state_of[row, shared + 1 : shared + 1 + own] = at + ticks[:own]
            pieces.append(tokens[row, shared : shared + own])
            positions.append(shared + ticks[:own])
            at += own
    flat = torch.cat([ticks[:root], prefix[:, root:].flatten(), suffix.flatten()])
    places = (flat >= 0).nonzero()[:, 0]
    order = torch.empty(at, dtype=torch.long).scatter_(0, flat[places], places)
    real = (prefix >= 0, suffix >= 0)
    layout = Layout(prefix.clamp(min=0), real[0], suffix.clamp(min=0), real[1], order, root)
    return Packed(torch.cat(pieces), torch.cat(positions), state_of, layout)
