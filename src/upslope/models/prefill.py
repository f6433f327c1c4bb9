"""One prefill pass: which tokens it computes, and what these attend to.

What all prompts begin with is computed once; of a prompt that continues what is stored, only what
is new. Prompts are padded to one number of new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upslope.models.cohorts import softmax
from upslope.models.prefixes import Prefix, side_by_side

WORTH = 8  # tokens that prompts must share for a root of their own
WHOLE = 256  # places of which a CPU computes all scores sooner than a fused attention's


class Prefill:
    """Prompts and what is stored of each, before the pass; their keys and values, after it.

    ``root``: tokens that all begin with, computed once. ``starts``: how many tokens each prompt
    has no need to compute for itself. ``tokens`` and ``position`` [n]: what is computed. ``last``
    [prompts]: where among them each prompt ends. ``keys`` [kv, prompts, size, longest] and
    ``values`` [kv, prompts, longest, size] are of each layer.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        found: Sequence[Prefix | None],
        size: int,
        device: torch.device,
    ) -> None:
        """``size`` of a head."""
        count = len(prompts)
        known = [0 if prefix is None else prefix.keys.shape[2] for prefix in found]
        self._stored = side_by_side(found)
        self.root = common_start(prompts) if self._stored is None else 0
        self.starts = known if self._stored else [self.root] * count
        self._before = max(self.starts)
        new = [prompt[start:] for prompt, start in zip(prompts, self.starts, strict=True)]
        self._count, self._rest, self._size = count, max(map(len, new)), size
        if self.root + count * self._rest < 2:  # a one-row product rounds differently
            self._rest = 2
        padded = np.zeros((count, self._rest), dtype=np.int64)
        for row, part in enumerate(new):
            padded[row, : len(part)] = part
        tokens = torch.tensor(prompts[0][: self.root], dtype=torch.long)
        self.tokens = torch.cat((tokens, torch.from_numpy(padded).view(-1))).to(device)
        self.lengths = torch.tensor([len(p) for p in prompts], device=device)
        starts, columns = torch.tensor(self.starts, device=device), torch.arange(self._rest)
        own = starts[:, None] + columns.to(device)
        self.position = torch.cat((torch.arange(self.root, device=device), own.view(-1)))
        ends = self.lengths - starts + torch.arange(count, device=device) * self._rest
        self.last = self.root + ends - 1
        self._see(starts)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def pairs(self) -> int:
        """Query-key pairs, padding included."""
        return self.root**2 + self._count * self._rest * (self._before + self._rest)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the layer's keys, scaled, and values; [n, head, size] of attention."""
        k = k * self._size**-0.5
        shape = (self._count, self._rest, -1, self._size)
        own_q, own_k, own_v = (x[self.root :].view(shape) for x in (q, k, v))
        own_k, own_v = own_k.permute(2, 0, 1, 3), own_v.permute(2, 0, 1, 3)
        if not self._before:
            self._store(own_k, own_v)
            return attended(own_q, self.keys[-1].mT, self.values[-1], None)
        if self._stored is not None:
            past_k, past_v = (x[layer].transpose(0, 1) for x in self._stored)
        else:
            k, v = (x[None, : self.root].permute(2, 0, 1, 3) for x in (k, v))
            past_k, past_v = (x.expand(-1, self._count, -1, -1) for x in (k, v))
        all_k, all_v = torch.cat((past_k, own_k), 2), torch.cat((past_v, own_v), 2)
        self._store(self._aligned(all_k), self._aligned(all_v))
        out = attended(own_q, all_k, all_v, self._seen)
        if self._stored is not None:
            return out
        return torch.cat((attended(q[None, : self.root], k, v, None), out))

    def _store(self, keys: Tensor, values: Tensor) -> None:
        self.keys.append(keys.transpose(-1, -2).contiguous())
        self.values.append(values.contiguous())

    def _see(self, starts: Tensor) -> None:
        """Which columns new tokens see, and where a prompt's own columns are, if not all alike."""
        width, device = self._before + self._rest, starts.device
        self._moved: Tensor | None = None
        self._seen = torch.ones(self._rest, width, dtype=torch.bool, device=device)
        self._seen = self._seen.tril(self._before)
        if len(set(self.starts)) > 1:
            columns, empty = torch.arange(width, device=device), (self._before - starts)[:, None]
            self._seen = self._seen & (columns >= empty)[:, None, None]
            longest = int(self.lengths.max())
            self._moved = (columns[:longest] + empty).clamp(max=width - 1)

    def _aligned(self, x: Tensor) -> Tensor:
        """[kv, prompts, longest, size] with each prompt's columns from the first on."""
        if self._moved is None:
            return x
        places = self._moved[None, :, :, None].expand(len(x), -1, -1, x.shape[3])
        return x.gather(2, places)


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share, less than any has; 0 where sharing saves little."""
    if len(prompts) < 2:
        return 0
    ordered = sorted(map(tuple, prompts))
    low, high = ordered[0], ordered[-1]  # all others lie between them
    pairs = zip(low, high, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(low), len(high)))
    shared = min(same, *(len(prompt) - 1 for prompt in prompts))
    return shared if shared >= WORTH else 0


def attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """[batch * token, head, size] of causal attention, or to what is ``seen``.

    ``q`` [batch, token, head, size], scaled ``k`` and ``v`` [kv, batch, place, size].
    """
    batch, count, heads, size = q.shape
    kv, _, places, _ = k.shape
    if places > WHOLE or q.device.type != "cpu":
        causal = seen is None
        q, k, v = q.transpose(1, 2), k.transpose(0, 1), v.transpose(0, 1)
        out = F.scaled_dot_product_attention(
            q, k, v, seen, is_causal=causal, enable_gqa=True, scale=1.0
        )
        return out.transpose(1, 2).flatten(0, 1)
    if seen is None:
        seen = torch.ones(count, places, dtype=torch.bool).tril()
    hidden = torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(~seen, -torch.inf)
    q = q.reshape(batch, count, kv, -1, size).permute(2, 0, 3, 1, 4)  # [kv, batch, g, token, size]
    scores = (q.reshape(kv, batch, -1, size) @ k.mT).view(*q.shape[:4], places)
    weights = softmax(scores.add_(hidden))
    out = (weights.view(kv, batch, -1, places) @ v).view(q.shape)
    return out.permute(1, 3, 0, 2, 4).reshape(-1, heads, size)
