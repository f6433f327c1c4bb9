"""Attention over a packed row, registered with transformers so that any of its models can run it.

Root and prefix queries attend causally to what comes before them; suffix queries attend to their
group's whole prefix and causally within their own suffix. Groups are padded to one shape inside
attention only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from upslope.models.packing import Layout

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
    outs = [_prefixes(q, k, v, layout, scale)]
    if layout.suffix.shape[-1]:
        outs.append(_suffixes(q, k, v, layout, scale))
    return torch.cat(outs)[layout.order][None], None


def shares_scores(layout: Layout, heads: int, kv_heads: int, size: int) -> bool:
    """Whether suffix scores are smaller than a copy of the prefix's keys and values a row."""
    return heads * layout.suffix.shape[-1] <= 4 * kv_heads * size


def _prefixes(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
    """[root + group * rest, head, size]"""
    root, whole, grouped = layout.root, layout.prefix, q.shape[1] != k.shape[1]
    rest = whole[:, root:]

    def attended(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        out = F.scaled_dot_product_attention(
            q[queries].transpose(1, 2),
            k[keys].transpose(1, 2),
            v[keys].transpose(1, 2),
            mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=grouped,
        )
        return out.transpose(1, 2).flatten(0, 1)

    if not root:
        return attended(whole, whole, None)
    first = attended(whole[:1, :root], whole[:1, :root], None)
    if not rest.shape[1]:
        return first
    before = torch.ones(rest.shape[1], whole.shape[1], dtype=torch.bool, device=q.device)
    return torch.cat([first, attended(rest, whole, before.tril(root))])


def _suffixes(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
    """[group * member * suffix, head, size]"""
    if shares_scores(layout, q.shape[1], k.shape[1], q.shape[2]):
        return _suffixes_sharing(q, k, v, layout, scale)
    groups, members, length = layout.suffix.shape
    prefix = layout.prefix.shape[1]

    def keys(x: Tensor) -> Tensor:
        shared = x[layout.prefix][:, None].expand(groups, members, prefix, *x.shape[1:])
        own = x[layout.suffix]
        return torch.cat([shared, own], 2).flatten(0, 1).transpose(1, 2)

    causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    seen = layout.prefix_real[:, None, None].expand(groups, members, length, prefix)
    mask = torch.cat([seen, causal.expand(groups, members, length, length)], -1)
    out = F.scaled_dot_product_attention(
        q[layout.suffix].flatten(0, 1).transpose(1, 2),
        keys(k),
        keys(v),
        mask.flatten(0, 1)[:, None],
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).flatten(0, 1)


def _suffixes_sharing(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
    """The same, one product of all a group's suffix queries with the prefix stored once."""
    g, m, c = layout.suffix.shape
    p, kv, size = layout.prefix.shape[1], k.shape[1], k.shape[2]
    per = q.shape[1] // kv
    # [group kv per member suffix size]: heads that share keys are neighbours in q.
    qs = (q[layout.suffix] * scale).view(g, m, c, kv, per, size).permute(0, 3, 4, 1, 2, 5)
    kp, vp = (x[layout.prefix].transpose(1, 2) for x in (k, v))  # [group kv prefix size]
    ks, vs = (
        x[layout.suffix].permute(0, 3, 1, 2, 4) for x in (k, v)
    )  # [group kv member suffix size]
    far = (qs.reshape(g, kv, per * m * c, size) @ kp.transpose(-1, -2)).view(g, kv, per, m, c, p)
    far = far.masked_fill(~layout.prefix_real[:, None, None, None, None], -torch.inf)
    near = qs @ ks[:, :, None].transpose(-1, -2)
    later = torch.ones(c, c, dtype=torch.bool, device=q.device).triu(1)
    weight = torch.cat([far, near.masked_fill(later, -torch.inf)], -1).softmax(-1)
    out = (weight[..., :p].reshape(g, kv, per * m * c, p) @ vp).view(g, kv, per, m, c, size)
    out = out + weight[..., p:] @ vs[:, :, None]
    return out.permute(0, 3, 4, 1, 2, 5).reshape(g * m * c, kv * per, size)


def register() -> None:
    """Make ``attn_implementation = NAME`` known to transformers; safe to call again."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
