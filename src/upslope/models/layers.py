"""The layers of Llama, Qwen2 and Qwen3 for training, with gradients written by hand.

They compute what transformers' modules do, from the modules' own parameters, and keep about half
of it for the backward pass: norms and activations are computed again, no matrix product is. A
gradient that is there already is added to by the product itself. ``logprobs.prepare`` compares
them with the modules; an adapter, 16-bit weights and checkpointing run through the modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from upslope.models.attention import attended
from upslope.models.packing import Packed
from upslope.models.products import add_product, linear, product

FAMILIES = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
Grads = tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Place:
    """What all layers need to know of a packed row: its rotations [packed 1 half], a layer's query
    and key heads and their size, and the constant of its norms."""

    cos: Tensor
    sin: Tensor
    heads: int
    kv: int
    size: int
    eps: float


def known(model: PreTrainedModel) -> bool:
    """Whether ``states`` may stand for the model's own trunk: a family we know, nothing put into
    it or hooked to it, all of it in FP32, and trained whole or not at all."""
    if type(model) not in FAMILIES:
        return False
    config, parameters = model.config.to_dict(), list(model.parameters())
    whole = len({p.requires_grad for p in parameters}) == 1
    single = {p.dtype for p in parameters} == {torch.float32}
    trunk: Any = model.model
    # An adapter takes the place of a matrix, also of one in a model that is not trained.
    plain = all(type(m) is nn.Linear for layer in trunk.layers for m in _matrices(layer))
    heard = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return whole and single and plain and not heard and config["hidden_act"] == "silu"


def states(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Hidden states [packed hidden] of packed tokens, as the model's trunk gives them."""
    trunk: Any = model.model
    settings = model.config.to_dict()
    heads, device = int(settings["num_attention_heads"]), model.device
    layout, tokens = packed.layout.to(device), packed.tokens.to(device)
    embed = trunk.embed_tokens
    x: Tensor = Embedded.apply(tokens, embed.weight, embed.padding_idx)  # type: ignore[no-untyped-call]
    cos, sin = trunk.rotary_emb(x, packed.positions[None].to(device))
    size = cos.shape[-1]
    place = Place(
        cos[0, :, None, : size // 2],
        sin[0, :, None, : size // 2],
        heads,
        int(settings["num_key_value_heads"]),
        size,
        float(settings["rms_norm_eps"]),
    )
    for layer in trunk.layers:
        own, matrices = layer.self_attn, _matrices(layer)
        norms = [own.q_norm.weight, own.k_norm.weight] if "q_norm" in own._modules else [None] * 2
        q, k, v = Projected.apply(  # type: ignore[no-untyped-call]
            place, x, layer.input_layernorm.weight, *norms, *_parameters(matrices[:3])
        )
        out = attended(q, k, v, layout, own.scaling).flatten(1)
        after = layer.post_attention_layernorm.weight
        x = Fed.apply(place.eps, x, out, after, *_parameters(matrices[3:]))  # type: ignore[no-untyped-call]
    last: Tensor = Normed.apply(x, trunk.norm.weight, place.eps)  # type: ignore[no-untyped-call]
    return last


class Embedded(torch.autograd.Function):
    """Rows of the embedding; adds to a gradient that is there, without one of its own."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        ctx.padding = padding
        return weight.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        tokens, weight = ctx.saved_tensors
        grad = grads[0]
        if ctx.padding is not None:  # whose row is never trained here
            grad = grad.masked_fill((tokens == ctx.padding)[:, None], 0.0)
        there = gradient(weight)
        if there is not None:
            there.index_add_(0, tokens, grad)
            return None, None, None
        return None, torch.zeros_like(weight).index_add_(0, tokens, grad), None


class Normed(torch.autograd.Function):
    """x [n hidden] over its root mean square, times ``weight``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        x, weight, scale = ctx.saved_tensors
        to_x, to_weight = _norm_back(grads[0], x * scale, weight, scale)
        return to_x, to_weight, None


class Projected(torch.autograd.Function):
    """x [n hidden] to rotated queries and keys, and to values [n head size]: a layer's first norm
    and three matrices, with their biases, and Qwen3's norms of heads."""

    @staticmethod
    def forward(
        ctx: Any,
        place: Place,
        x: Tensor,
        norm: Tensor,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        *matrices: Tensor | None,
    ) -> tuple[Tensor, ...]:
        scale = _scale(x, place.eps)
        h = (x * scale).mul_(norm)
        q, k, v = (linear(h, *pair).unflatten(1, (-1, place.size)) for pair in _pairs(matrices))
        raw: list[Tensor | None] = [None] * 4
        if q_norm is not None and k_norm is not None:
            raw = [q, _scale(q, place.eps), k, _scale(k, place.eps)]
            q, k = (q * raw[1]).mul_(q_norm), (k * raw[3]).mul_(k_norm)
        for heads in (q, k):
            _rotate(heads, place.cos, place.sin)
        ctx.save_for_backward(x, norm, q_norm, k_norm, scale, *raw, *matrices)
        ctx.place = place
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        place, (x, norm, q_norm, k_norm, scale, *rest) = ctx.place, ctx.saved_tensors
        raw, matrices = rest[:4], rest[4:]
        ours = [grads[0].clone(), grads[1].clone(), grads[2]]
        to_norms: list[Tensor | None] = [None, None]
        for i, weight in enumerate((q_norm, k_norm)):
            _rotate(ours[i], place.cos, place.sin, back=True)
            if weight is not None:
                y, of = raw[2 * i], raw[2 * i + 1]
                ours[i], to_norms[i] = _norm_back(ours[i], y * of, weight, of)
        unit = x * scale
        h, to_h, found = unit * norm, torch.zeros_like(x), list[Tensor | None]()
        for grad, (weight, bias) in zip(ours, _pairs(matrices), strict=True):
            flat = grad.flatten(1)
            add_product(to_h, flat, weight)
            found += [of_weight(weight, flat, h), None if bias is None else flat.sum(0)]
        to_x, to_norm = _norm_back(to_h, unit, norm, scale)
        return None, to_x, to_norm, *to_norms, *found


class Fed(torch.autograd.Function):
    """What follows attention: x [n hidden] with its output's product added, and to that the
    feed-forward part of its norm."""

    @staticmethod
    def forward(
        ctx: Any, eps: float, x: Tensor, out: Tensor, norm: Tensor, *matrices: Tensor | None
    ) -> Tensor:
        project, gate, up, down = _pairs(matrices)
        x = linear(out, *project).add_(x)
        scale = _scale(x, eps)
        h = (x * scale).mul_(norm)
        gates, ups = linear(h, *gate), linear(h, *up)
        ctx.save_for_backward(x, out, norm, scale, gates, ups, *matrices)
        return linear(F.silu(gates).mul_(ups), *down).add_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        (grad,) = grads
        x, out, norm, scale, gates, ups, *matrices = ctx.saved_tensors
        project, gate, up, down = _pairs(matrices)
        act = F.silu(gates)
        found = [of_weight(down[0], grad, act * ups), None if down[1] is None else grad.sum(0)]
        inner = product(grad, down[0])
        to_up = act.mul_(inner)
        to_gate = torch.ops.aten.silu_backward(inner.mul_(ups), gates)
        unit = x * scale
        h = unit * norm
        to_h = add_product(product(to_gate, gate[0]), to_up, up[0])
        for to, (weight, bias) in ((to_up, up), (to_gate, gate)):
            found = [of_weight(weight, to, h), None if bias is None else to.sum(0), *found]
        to_x, to_norm = _norm_back(to_h, unit, norm, scale)
        to_x += grad
        weight, bias = project
        found = [of_weight(weight, to_x, out), None if bias is None else to_x.sum(0), *found]
        return None, to_x, product(to_x, weight), to_norm, *found


def gradient(parameter: Tensor) -> Tensor | None:
    """The parameter's gradient, if it may be added to in place: there, and seen by no hook."""
    if not parameter.is_leaf or parameter._backward_hooks:
        return None
    return parameter.grad


def of_weight(weight: Tensor, to: Tensor, x: Tensor) -> Tensor | None:
    """The gradient of ``weight`` [out in] from that of its products [n out] with x [n in]; None
    where it was added to what is there."""
    if not weight.requires_grad:
        return None
    there = gradient(weight)
    if there is None:
        return product(to.t(), x)
    add_product(there, to.t(), x)
    return None


def _matrices(layer: Any) -> list[nn.Linear]:
    """A layer's seven, in the order of their use."""
    own, mlp = layer.self_attn, layer.mlp
    before = [own.q_proj, own.k_proj, own.v_proj, own.o_proj]
    return [*before, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _parameters(matrices: list[nn.Linear]) -> Iterator[Tensor | None]:
    for matrix in matrices:
        yield matrix.weight
        yield matrix.bias


def _pairs(flat: Any) -> list[tuple[Any, Any]]:
    """Weights with their biases."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def _scale(x: Tensor, eps: float) -> Tensor:
    """One over the root mean square of the last dimension, which stays."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _norm_back(grad: Tensor, unit: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight; ``unit`` is x times ``scale``."""
    both = grad * unit
    mean = (both @ weight).div_(len(weight))[..., None]
    to_weight = both.reshape(-1, len(weight)).sum(0)
    to_x = (grad * weight).addcmul_(unit, mean, value=-1).mul_(scale)
    return to_x, to_weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> None:
    """Rotate pairs of x [n head size] in place: each number with that half a head away."""
    first, second = x.chunk(2, -1)
    sign = -1 if back else 1
    aside = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-sign)
    second.mul_(cos).add_(aside, alpha=sign)
