"""Attention over a packed row, registered with transformers so that any of its models can run it.

Each run attends causally to itself and, where it continues a path, to all of that. What a family's
runs have in common is multiplied with all of them at once. Padding is inside attention only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from upslope.models.packing import Block, Layout

NAME = "upslope_packed"
# Backward FLOPs over forward FLOPs: the fused kernel computes its scores again.
FUSED_BACKWARD, PLAIN_BACKWARD = 2.5, 2.0


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **unused: Any,  # transformers hands every implementation all the keywords any of them takes
) -> tuple[Tensor, None]:
    """Query [1 head packed size] to [1 packed head size]."""
    if layout is None:
        raise ValueError(f"{NAME} attention needs a layout: use it through models.logprobs")
    scale = scaling if scaling is not None else 1 / math.sqrt(query.shape[-1])
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attended(q, k, v, layout, scale)[None], None


def attended(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
    """Query, key and value [packed head size] to [packed head size]."""
    sizes = [block.slots for block in layout.blocks]
    parts = zip(*(_slotted(x, layout).split(sizes) for x in (q, k, v)), strict=True)
    outs = [
        _attended(block, qs, ks, vs, (k, v), scale)
        for block, (qs, ks, vs) in zip(layout.blocks, parts, strict=True)
    ]
    return _unslotted(torch.cat(outs) if len(outs) > 1 else outs[0], layout)


def shares_scores(block: Block, heads: int, kv_heads: int, size: int) -> bool:
    """Whether a run's scores are smaller than its own copy of the path's keys and values."""
    return heads * block.shape[2] <= 4 * kv_heads * size


def _attended(
    block: Block, q: Tensor, k: Tensor, v: Tensor, packed: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    """[slot head size] of one block; ``packed`` are all keys and values."""
    families, runs, own = block.shape
    q, k, v = (x.unflatten(0, (families, runs, own)) for x in (q, k, v))
    if not block.path.shape[1]:
        return _fused(q, k, v, None, scale)
    keys, values = (x.index_select(0, block.path.flatten()) for x in packed)
    keys, values = (x.unflatten(0, block.path.shape) for x in (keys, values))
    if shares_scores(block, q.shape[3], k.shape[3], q.shape[4]):
        own_out: Tensor = Together.apply(  # type: ignore[no-untyped-call]
            q, k, v, keys, values, block.seen, scale
        )
        return own_out
    keys, values = (
        torch.cat([path[:, None].expand(-1, runs, -1, -1, -1), x], 2)
        for path, x in ((keys, k), (values, v))
    )
    causal = torch.ones(own, own, dtype=torch.bool, device=q.device).tril()
    seen = block.seen[:, None, None].expand(-1, runs, own, -1)
    mask = torch.cat([seen, causal.expand(families, runs, own, own)], -1)
    return _fused(q, keys, values, mask.flatten(0, 1)[:, None], scale)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Run by run, causal without a mask."""
    q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
    return out.transpose(1, 2).flatten(0, 1)


class Together(torch.autograd.Function):
    """One product of all a family's queries with its path: q [family run own head size], k and v
    alike with fewer heads, the path's ``keys`` and ``values`` [family path head size]; to [slot
    head size]. Kept are the softmax's weights, whose parts both products read where they lie."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor,
        values: Tensor,
        seen: Tensor,
        scale: float,
    ) -> Tensor:
        f, m, c, heads, size = q.shape
        kv, p = k.shape[3], keys.shape[1]
        per = heads // kv
        qs, (ks, vs), (kp, vp) = _by_head(q, kv), _runs(k, v), _paths(keys, values)
        unseen = _minus_infinity(~seen, q).repeat_interleave(kv, 0)[:, None]
        far = torch.baddbmm(unseen, qs, kp.mT, alpha=scale)
        later = _minus_infinity(torch.ones(c, c, dtype=torch.bool, device=q.device).triu(1), q)
        qs = qs.reshape(-1, per * c, size)
        near = torch.baddbmm(later.repeat(per, 1), qs, ks.mT, alpha=scale)
        weight = torch.cat([far, near.view(f * kv, -1, c)], -1).softmax(-1)
        far, near = _far_and_near(weight, m, p)
        out = (far @ vp).view(-1, per * c, size)
        out = torch.baddbmm(out, near, vs)
        ctx.save_for_backward(q, k, v, keys, values, weight)
        ctx.scale = scale
        return _by_slot(out, q.shape, kv).flatten(0, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, values, weight = ctx.saved_tensors
        f, m, c, heads, size = q.shape
        kv, p = k.shape[3], keys.shape[1]
        per = heads // kv
        (ks, vs), (kp, vp) = _runs(k, v), _paths(keys, values)
        to, qs = _by_head(grads[0].view(q.shape), kv), _by_head(q, kv) * ctx.scale
        to_run, qs_run = (x.reshape(-1, per * c, size) for x in (to, qs))
        near = (to_run @ vs.mT).view(f * kv, -1, c)
        to_weight = torch.cat([to @ vp.mT, near], -1)
        to_score = torch.ops.aten._softmax_backward_data(to_weight, weight, -1, weight.dtype)
        far, near = _far_and_near(weight, m, p)
        to_far, to_near = _far_and_near(to_score, m, p)
        to_q = torch.baddbmm((to_far @ kp).view(qs_run.shape), to_near, ks).mul_(ctx.scale)
        runs = (to_near.mT @ qs_run, near.mT @ to_run)
        paths = (to_far.mT @ qs, far.mT @ to)
        return (
            _by_slot(to_q, q.shape, kv),
            *(x.view(f, kv, m, c, size).permute(0, 2, 3, 1, 4) for x in runs),
            *(x.view(f, kv, p, size).transpose(1, 2) for x in paths),
            None,
            None,
        )


def _by_head(x: Tensor, kv: int) -> Tensor:
    """[family run own head size] to [family kv, run per own, size]: heads that share keys are
    neighbours."""
    f, m, c, heads, size = x.shape
    apart = x.view(f, m, c, kv, heads // kv, size).permute(0, 3, 1, 4, 2, 5)
    return apart.reshape(f * kv, -1, size)


def _by_slot(x: Tensor, shape: torch.Size, kv: int) -> Tensor:
    """Its inverse, to [family run own head size]."""
    f, m, c, heads, size = shape
    apart = x.view(f, kv, m, heads // kv, c, size)
    out: Tensor = apart.permute(0, 2, 4, 1, 3, 5).reshape(shape)
    return out


def _runs(*pair: Tensor) -> Iterator[Tensor]:
    """[family run own kv size] to [family kv run, own, size]."""
    for x in pair:
        yield x.permute(0, 3, 1, 2, 4).reshape(-1, x.shape[2], x.shape[4])


def _paths(*pair: Tensor) -> Iterator[Tensor]:
    """[family path kv size] to [family kv, path, size]."""
    for x in pair:
        yield x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _far_and_near(weight: Tensor, runs: int, path: int) -> tuple[Tensor, Tensor]:
    """Of [family kv, run per own, path own], the path's part, and by run the own tokens'."""
    each = weight.view(-1, weight.shape[1] // runs, weight.shape[2])
    return weight[..., :path], each[..., path:]


def _minus_infinity(where: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(where, dtype=like.dtype).masked_fill_(where, -torch.inf)


class Reorder(torch.autograd.Function):
    """Rows ``to`` of x. Its gradient takes each x row from its place ``back``, where there is one
    alone; a gradient by ``to`` would add up rows, which is slow, and those of padding with them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, to)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grads[0].index_select(0, back), None, None


def _slotted(x: Tensor, layout: Layout) -> Tensor:
    """[packed ...] to [slot ...]"""
    if len(layout.packed_of) == len(layout.slot_of):
        return x
    out: Tensor = Reorder.apply(x, layout.packed_of, layout.slot_of)  # type: ignore[no-untyped-call]
    return out


def _unslotted(x: Tensor, layout: Layout) -> Tensor:
    """[slot ...] to [packed ...]; padding is left out."""
    return x if len(layout.packed_of) == len(layout.slot_of) else x.index_select(0, layout.slot_of)


def register() -> None:
    """Make ``attn_implementation = NAME`` known to transformers; safe to call again."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
