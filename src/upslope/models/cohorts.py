"""Keys and values of the rows being decoded: a prompt's once, however many rows continue it.

Storage and the attention that reads it; which request a row belongs to is the engine's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ROOM = 8  # columns a row's own keys begin with; doubled when they are full, up to
GROWTH = 32  # columns more, or an eighth: what is not used yet is memory, too
SCALAR = 400  # multiplications below which torch's CPU batch product is a slow scalar loop
VECTOR = 16  # columns below which its softmax is one


class Cohort:
    """Rows prefilled in one pass, or merged since.

    Prompts lie in a grid of [prompts, width] places, so that all rows of a prompt read its keys in
    one product. Heads come first everywhere: rows in the order of the grid are then in it as they
    lie, and need not be copied. Rows' own keys all end at column ``used`` and begin at ``start``,
    which differs between rows only after a merge. Every layer has its own tensors, so that whatever
    moves there is one layer of it twice and no more.
    """

    def __init__(
        self, keys: list[Tensor], values: list[Tensor], lengths: Tensor, owner: Tensor
    ) -> None:
        """Rows that continue prompt ``owner[row]``. Keys are stored scaled, as scores want them.

        Of each layer ``keys`` [kv, prompts, size, longest] and ``values`` [kv, prompts, longest,
        size]; ``lengths`` [prompts], ``owner`` [rows].
        """
        self.keys, self.values, self.lengths, self.owner = keys, values, lengths, owner
        self.position = lengths[owner]
        self.start = torch.zeros_like(owner)
        self.used, self.room = 0, ROOM
        self.slots: Tensor | None = None
        self.fill: Tensor | None = None
        kv, _, size, _ = keys[0].shape
        self.own_keys = [k.new_empty(kv, len(owner), ROOM, size) for k in keys]
        self.own_values = [v.new_empty(kv, len(owner), ROOM, size) for v in values]
        self._arrange()

    @property
    def longest(self) -> int:
        """Columns of the prompts' keys."""
        return self.keys[0].shape[-1]

    @property
    def pairs(self) -> int:
        """Query-key pairs of one decode step, padding included."""
        return self.prompts * self.width * self.longest + self.rows * (self.used + 1)

    def select(self, order: Tensor) -> None:
        """Keep the rows ``order``, in that order."""
        rows, used = len(order), self.used
        moved = (order != torch.arange(rows, device=order.device)).nonzero()[:, 0]
        if 4 * rows <= 3 * self.own_keys[0].shape[1]:
            for owns in (self.own_keys, self.own_values):
                _each(owns, lambda own: own[:, order])
        else:
            for own in (*self.own_keys, *self.own_values):
                own[:, moved, :used] = own[:, order[moved], :used]
        self.owner, self.position = self.owner[order], self.position[order]
        self.start = self.start[order]
        self._arrange()

    def absorb(self, other: Cohort) -> None:
        """Take over another cohort's rows, placed after one's own. Nothing is left of the other."""
        both = (self, other)
        ends = [c.longest for c in both]
        used = max(c.used - int(c.start.min()) for c in both)
        starts = [c.start + (used - c.used) for c in both]
        self.room = ROOM * -(-(used + 1) // ROOM)

        def recent(own: Tensor, its: Tensor) -> Tensor:
            pairs = zip(both, (own, its), strict=True)
            parts = [x[:, : c.rows, max(0, c.used - used) : c.used] for c, x in pairs]
            return _stacked(parts, 2, self.room, (used, used))

        _merge(self.keys, other.keys, lambda *two: _stacked(two, 3, max(ends), ends))
        _merge(self.values, other.values, lambda *two: _stacked(two, 2, max(ends), ends))
        _merge(self.own_keys, other.own_keys, recent)
        _merge(self.own_values, other.own_values, recent)
        self.owner = torch.cat([self.owner, other.owner + self.prompts])
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.position = torch.cat([self.position, other.position])
        self.start, self.used = torch.cat(starts), used
        self._arrange()

    def read(self, row: int) -> tuple[Tensor, Tensor]:
        """Keys and values of all that a row was fed: copies, [layers, kv, token, size]."""
        prompt, own = self.owner[row], slice(int(self.start[row]), self.used)
        fed = slice(int(self.lengths[prompt]))
        keys = [
            torch.cat((shared[:, prompt, :, fed].mT, mine[:, row, own]), 1)
            for shared, mine in zip(self.keys, self.own_keys, strict=True)
        ]
        values = [
            torch.cat((shared[:, prompt, fed], mine[:, row, own]), 1)
            for shared, mine in zip(self.values, self.own_values, strict=True)
        ]
        return torch.stack(keys), torch.stack(values)

    def open(self) -> None:
        """Make room for one more token in every row."""
        used, rows = self.used, self.rows
        if used < self.room:
            return
        self.room += min(max(used, ROOM), max(GROWTH, used // 8))
        more = self.room - used
        for owns in (self.own_keys, self.own_values):
            _each(owns, lambda own: F.pad(own[:, :rows], (0, 0, 0, more)))
        self._mask_own()

    def close(self) -> None:
        """One more token was stored in every row."""
        self.used += 1
        self.position += 1

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new token's ``k`` and ``v`` [rows, kv, size] and attend with ``q``.

        ``q`` and the result are [rows, heads, size].
        """
        rows, heads, size = q.shape
        kv, end, far = k.shape[1], self.used + 1, self.longest
        keys, values = self.own_keys[layer][:, :rows], self.own_values[layer][:, :rows]
        torch.mul(k.transpose(0, 1), size**-0.5, out=keys[:, :, self.used])
        values[:, :, self.used] = v.transpose(0, 1)
        q = q.reshape(rows, kv, -1, size).transpose(0, 1).contiguous()
        near = q.new_empty(*q.shape[:3], end)
        _add_products(near, q, keys[:, :, :end].mT, 0)
        if self.near_mask is not None:
            near += self.near_mask[..., :end]
        weights = softmax(torch.cat((self._asked(q, self.keys[layer], self.far_mask), near), -1))
        out = self._asked(weights[..., :far], self.values[layer], None)
        weights = weights[..., far:]
        if end * heads // kv * size >= SCALAR:
            _add_products(out, weights, values[:, :, :end], 1)
        else:
            for column in range(end):
                out.addcmul_(weights[..., column, None], values[:, :, column, None])
        return out.transpose(0, 1).reshape(rows, heads, size)

    def _asked(self, x: Tensor, shared: Tensor, mask: Tensor | None) -> Tensor:
        """Each row of ``x`` [kv, rows, g, a] by its prompt's matrix in ``shared`` [kv, prompts, a,
        b], plus the prompt's ``mask`` [prompts, 1, b]: [kv, rows, g, b]."""
        kv, _, g, inner = x.shape
        if self.fill is not None:  # empty places repeat a row
            x = x.index_select(1, self.fill)
        out = x.view(kv, self.prompts, self.width * g, inner) @ shared
        if mask is not None:
            out += mask
        out = out.view(kv, self.prompts * self.width, g, -1)
        return out if self.slots is None else out.index_select(1, self.slots)

    def _arrange(self) -> None:
        """Give every row its place in the grid, and drop prompts once many have no row left."""
        live, owner = torch.unique(self.owner, return_inverse=True)
        if 4 * len(live) <= 3 * len(self.lengths):
            self.owner, self.lengths = owner, self.lengths[live]
            longest = int(self.lengths.max())
            _each(self.keys, lambda keys: keys[:, live, :, :longest])
            _each(self.values, lambda values: values[:, live, :longest])
        self.prompts, self.rows = len(self.lengths), len(self.owner)
        rows = torch.arange(self.rows, device=self.owner.device)
        counts = torch.bincount(self.owner, minlength=self.prompts)
        self.width = int(counts.max())
        order = torch.argsort(self.owner, stable=True)
        slots = torch.empty_like(order)
        slots[order] = rows - (counts.cumsum(0) - counts)[self.owner[order]]
        slots += self.owner * self.width
        fill = slots.new_zeros(self.prompts * self.width)
        fill[slots] = rows
        regular = len(fill) == self.rows and bool((slots == rows).all())
        self.slots, self.fill = (None, None) if regular else (slots, fill)  # None: as they are
        self.far_mask = _mask(torch.arange(self.longest, device=rows.device), self.lengths)
        self._mask_own()

    def _mask_own(self) -> None:
        columns = torch.arange(self.room, device=self.start.device)
        self.near_mask = _mask(-columns, 1 - self.start)


class Rows(Protocol):
    """What rows decoded together must allow: leaving."""

    @property
    def rows(self) -> int:
        """Rows that are still decoded."""

    def select(self, order: Tensor) -> None:
        """Keep the rows ``order``, in that order."""


AnyRows = TypeVar("AnyRows", bound=Rows)


def leave(
    cohorts: list[AnyRows], alive: NDArray[np.bool_], device: torch.device
) -> list[tuple[AnyRows, NDArray[np.int64]]]:
    """Let rows go. Returns the cohorts that still have rows, with the old places of their rows.

    The last rows move into the holes, so that the cost is that of the rows that leave.
    """
    kept, first = [], 0
    for cohort in cohorts:
        stays = alive[first : first + cohort.rows]
        rows = int(stays.sum())
        order = np.arange(rows)
        order[~stays[:rows]] = rows + np.flatnonzero(stays[rows:])
        if 0 < rows < cohort.rows:
            cohort.select(torch.from_numpy(order).to(device))
        if rows:
            kept.append((cohort, first + order))
        first += len(stays)
    return kept


def closest(cohorts: list[Cohort]) -> tuple[int, int]:
    """The two cohorts whose union pads least."""

    def padding(pair: tuple[int, int]) -> int:
        a, b = cohorts[pair[0]], cohorts[pair[1]]
        far = (a.prompts + b.prompts) * max(a.width, b.width) * max(a.longest, b.longest)
        return far + (a.rows + b.rows) * max(a.used, b.used) - a.pairs - b.pairs

    return min(combinations(range(len(cohorts)), 2), key=padding)


def softmax(scores: Tensor) -> Tensor:
    """Over the last dimension; may overwrite ``scores``."""
    if scores.shape[-1] >= VECTOR:
        return torch.softmax(scores, -1)
    scores -= scores.amax(-1, keepdim=True)
    return scores.exp_().div_(scores.sum(-1, keepdim=True))


def _add_products(out: Tensor, a: Tensor, b: Tensor, times: int) -> None:
    """Make ``out`` that many ``times`` itself plus the products of ``a`` and ``b`` [kv, n, ...].

    One call where ``b`` lies evenly, else one a head: between the heads are rows that have left.
    """
    parts: Iterable[tuple[Tensor, ...]] = zip(out, a, b, strict=True)
    if b.stride(0) == b.shape[1] * b.stride(1):
        parts = [(out.flatten(0, 1), a.flatten(0, 1), b.flatten(0, 1))]
    for sums, left, right in parts:
        torch.baddbmm(sums, left, right, beta=times, out=sums)


def _mask(columns: Tensor, ends: Tensor) -> Tensor | None:
    """Additive [n, 1, columns]: minus infinity where a column is not below its row's end."""
    hidden = columns >= ends[:, None]
    if not bool(hidden.any()):
        return None
    zeros = torch.zeros(hidden.shape, device=hidden.device)
    return zeros.masked_fill_(hidden, float("-inf"))[:, None]


def _each(tensors: list[Tensor], change: Callable[[Tensor], Tensor]) -> None:
    """Replace one after the other, so that no more than one of them is there twice."""
    for layer, tensor in enumerate(tensors):
        tensors[layer] = change(tensor)


def _merge(mine: list[Tensor], its: list[Tensor], join: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace mine by what joins both, and let go of the other's, one after the other."""
    for layer, tensor in enumerate(mine):
        mine[layer] = join(tensor, its.pop(0))


def _stacked(parts: Sequence[Tensor], dim: int, columns: int, ends: Sequence[int]) -> Tensor:
    """The rows [kv, rows, ...] of all parts with so many ``columns`` in ``dim``, zeros but for
    those before each part's end."""
    shape, rows = list(parts[0].shape), [part.shape[1] for part in parts]
    shape[1], shape[dim] = sum(rows), columns
    out = parts[0].new_zeros(shape)
    for place, part, end in zip(out.split(rows, 1), parts, ends, strict=True):
        own = part.shape[dim]
        place.narrow(dim, end - own, own).copy_(part)
    return out
