"""Weights laid out for decoding few rows, loaded in place from tensors with Hugging Face names.

The layout only; what is computed with it is in ``decoder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; matrices [in, out], which is faster than [out, in] for few rows."""

    before: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    after: Tensor
    gate_up: Tensor
    down: Tensor


def fits(model: PreTrainedModel) -> bool:
    """Whether ``decoder.Decoder`` computes this model exactly."""
    if type(model) not in (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM):
        return False
    config = model.config.to_dict()
    rope = config["rope_parameters"]["rope_type"]  # others change with the length of a batch
    full = set(config.get("layer_types") or ["full_attention"]) == {"full_attention"}
    plain = config["hidden_act"] == "silu" and rope in ("default", "linear", "llama3", "yarn")
    names = {name for name, _ in model.named_parameters()}
    return full and plain and names == set(Weights(model, torch.device("meta")).slots)


class Weights:
    """Buffers, and for every Hugging Face tensor the view of a buffer that it is copied into."""

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        config = model.config
        self.heads, self.kv = int(config.num_attention_heads), int(config.num_key_value_heads)
        hidden, self.eps = int(config.hidden_size), float(config.rms_norm_eps)
        self.size = int(config.to_dict().get("head_dim") or hidden // self.heads)
        self.slots: dict[str, Tensor] = {}
        self._dtype, self._device = model.dtype, device
        names = {name for name, _ in model.named_parameters()}
        vocabulary = int(config.vocab_size)
        # Row by row: looked up fast, and for a wide head also multiplied faster than [in, out].
        self.embedding = self._buffer(vocabulary, hidden)
        self.slots[EMBEDDING] = self.head = self.embedding
        if HEAD in names:
            self.slots[HEAD] = self.head = self._buffer(vocabulary, hidden)
        self.norm = self._vector({NORM: hidden})
        count = int(config.num_hidden_layers)
        wide = int(config.intermediate_size)
        self.layers = [self._layer(f"model.layers.{i}.", hidden, wide, names) for i in range(count)]

    def _layer(self, name: str, hidden: int, wide: int, names: set[str]) -> Layer:
        attention, mlp = f"{name}self_attn.", f"{name}mlp."
        sizes = {"q": self.heads * self.size, "k": self.kv * self.size, "v": self.kv * self.size}
        q_norm, k_norm = f"{attention}q_norm.weight", f"{attention}k_norm.weight"
        biases = {f"{attention}{p}_proj.bias": n for p, n in sizes.items()}
        return Layer(
            before=self._vector({f"{name}input_layernorm.weight": hidden}),
            qkv=self._matrix(hidden, {f"{attention}{p}_proj.weight": n for p, n in sizes.items()}),
            qkv_bias=self._vector(biases) if biases.keys() <= names else None,
            q_norm=self._vector({q_norm: self.size}) if q_norm in names else None,
            k_norm=self._vector({k_norm: self.size}) if k_norm in names else None,
            out=self._matrix(sizes["q"], {f"{attention}o_proj.weight": hidden}),
            after=self._vector({f"{name}post_attention_layernorm.weight": hidden}),
            gate_up=self._matrix(
                hidden, {f"{mlp}gate_proj.weight": wide, f"{mlp}up_proj.weight": wide}
            ),
            down=self._matrix(wide, {f"{mlp}down_proj.weight": hidden}),
        )

    def _buffer(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def _matrix(self, inputs: int, parts: Mapping[str, int]) -> Tensor:
        """One [inputs, outputs] buffer for several tensors [outputs, inputs], side by side."""
        buffer = self._buffer(inputs, sum(parts.values()))
        columns = buffer.split(list(parts.values()), dim=1)
        self.slots.update({n: c.t() for n, c in zip(parts, columns, strict=True)})
        return buffer

    def _vector(self, parts: Mapping[str, int]) -> Tensor:
        buffer = self._buffer(sum(parts.values()))
        self.slots.update(zip(parts, buffer.split(list(parts.values())), strict=True))
        return buffer


@torch.no_grad()
def fill(slots: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors into places of the same names; ValueError where the two do not correspond."""
    missing = set(slots)
    for name, tensor in tensors:
        if name not in slots:
            raise ValueError(f"the engine's model has no tensor called {name!r}")
        if slots[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(slots[name].shape)}"
            raise ValueError(f"tensor {name!r} has shape {shapes}")
        slots[name].copy_(tensor)
        missing.discard(name)
    if missing:
        raise ValueError(f"no tensor came for {sorted(missing)[0]!r} and {len(missing) - 1} others")
