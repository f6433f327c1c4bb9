"""Weights laid out for decoding few rows, loaded in place from tensors with Hugging Face names.

The layout only; what is computed with it is in ``decoder``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    MixtralForCausalLM,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen2MoeForCausalLM,
    Qwen3ForCausalLM,
    Qwen3MoeForCausalLM,
)

from upslope.models.feedforward import Dense, Experts
from upslope.models.panels import WIDEST, width
from upslope.models.products import by_onednn

DENSE = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
SPARSE = (MixtralForCausalLM, OlmoeForCausalLM, Qwen2MoeForCausalLM, Qwen3MoeForCausalLM)
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; matrices [in, out], which is faster than [out, in] for few rows.

    ``q_norm`` and ``k_norm`` are of a head, or of all heads together.
    """

    before: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    after: Tensor
    mlp: Dense | Experts


def fits(model: PreTrainedModel) -> bool:
    """Whether ``decoder.Decoder`` computes this model exactly."""
    if type(model) not in (*DENSE, *SPARSE):
        return False
    config = model.config.to_dict()
    rope = config["rope_parameters"]["rope_type"]  # others change with the length of a batch
    window = ["window" if config.get("sliding_window") else "full_attention"]
    full = set(config.get("layer_types") or window) == {"full_attention"}
    plain = config["hidden_act"] == "silu" and rope in ("default", "linear", "llama3", "yarn")
    names = {name for name, _ in model.named_parameters()}
    known = names == set(Weights(model, torch.device("meta")).slots)
    return full and plain and known and not config.get("clip_qkv")


class Weights:
    """Buffers, and for every Hugging Face tensor the view of a buffer that it is copied into."""

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        config = model.config
        self.heads, self.kv = int(config.num_attention_heads), int(config.num_key_value_heads)
        settings, self.eps = config.to_dict(), float(config.rms_norm_eps)
        self.size = int(settings.get("head_dim") or int(config.hidden_size) // self.heads)
        self._most = int(settings.get("num_experts_per_tok") or 0)
        self._normed = bool(settings.get("norm_topk_prob", True))  # Mixtral has no choice
        self.slots: dict[str, Tensor] = {}
        self._dtype, self._device = model.dtype, device
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.head = self._panels(HEAD if HEAD in self._shapes else EMBEDDING)
        self.embedding = self.head.transpose(1, 2)  # [panels, width, hidden]
        if HEAD in self._shapes:
            self.embedding = self._buffer(1, *self._shapes[EMBEDDING])
            self.slots[EMBEDDING] = self.embedding[0]
        self.norm = self._vector(NORM)
        self.layers = [
            self._layer(f"model.layers.{i}.") for i in range(int(config.num_hidden_layers))
        ]
        self.experts = [one.mlp for one in self.layers if isinstance(one.mlp, Experts)]

    def _layer(self, name: str) -> Layer:
        attention, mlp = f"{name}self_attn.", f"{name}mlp."
        q_norm, k_norm = f"{attention}q_norm.weight", f"{attention}k_norm.weight"
        biases = [f"{attention}{p}_proj.bias" for p in "qkv"]
        return Layer(
            before=self._vector(f"{name}input_layernorm.weight"),
            qkv=self._matrix(*(f"{attention}{p}_proj.weight" for p in "qkv")),
            qkv_bias=self._vector(*biases) if biases[0] in self._shapes else None,
            q_norm=self._vector(q_norm) if q_norm in self._shapes else None,
            k_norm=self._vector(k_norm) if k_norm in self._shapes else None,
            out=self._matrix(f"{attention}o_proj.weight"),
            after=self._vector(f"{name}post_attention_layernorm.weight"),
            mlp=self._experts(mlp) if f"{mlp}gate.weight" in self._shapes else self._dense(mlp),
        )

    def _dense(self, name: str) -> Dense:
        gate_up = self._panels(f"{name}gate_proj.weight", f"{name}up_proj.weight")
        return Dense(gate_up, self._matrix(f"{name}down_proj.weight"))

    def _experts(self, name: str) -> Experts:
        gates = [f"{name}gate.weight", f"{name}shared_expert_gate.weight"]
        shared = gates[1] in self._shapes
        return Experts(
            router=self._matrix(*gates[: 1 + shared]),
            gate_up=self._stack(f"{name}experts.gate_up_proj"),
            down=self._stack(f"{name}experts.down_proj"),
            shared=self._dense(f"{name}shared_expert.") if shared else None,
            most=self._most,
            normed=self._normed,
        )

    def _buffer(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def _matrix(self, *names: str) -> Tensor:
        """One [inputs, outputs] buffer for several tensors [outputs, inputs], side by side."""
        outputs = [self._shapes[name][0] for name in names]
        buffer = self._buffer(self._shapes[names[0]][1], sum(outputs))
        columns = buffer.split(outputs, dim=1)
        self.slots.update({n: c.t() for n, c in zip(names, columns, strict=True)})
        return buffer

    def _panels(self, *names: str) -> Tensor:
        """A [panels, inputs, width] buffer for tensors [outputs, inputs] of one shape, of which
        each panel has an equal part; a single panel where that is not slower.

        A single tensor in a single panel lies as it came: it may be an embedding, whose rows are
        read.
        """
        outputs, inputs = self._shapes[names[0]]
        part, buffer = outputs, self._buffer(1, inputs, len(names) * outputs)
        if self._device.type == "cpu" and not by_onednn(buffer):
            part = width(outputs, WIDEST // len(names))
            buffer = self._buffer(outputs // part, inputs, len(names) * part)
        elif len(names) == 1:
            buffer = self._buffer(1, outputs, inputs).mT
        parts = buffer.transpose(1, 2).split(part, 1)
        self.slots.update(zip(names, parts, strict=True))
        return buffer

    def _stack(self, name: str) -> Tensor:
        """A buffer for a tensor of all experts, in its own layout."""
        self.slots[name] = buffer = self._buffer(*self._shapes[name])
        return buffer

    def _vector(self, *names: str) -> Tensor:
        sizes = [self._shapes[name][0] for name in names]
        buffer = self._buffer(sum(sizes))
        self.slots.update(zip(names, buffer.split(sizes), strict=True))
        return buffer


@torch.no_grad()
def fill(slots: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors into places of the same names; ValueError where the two do not correspond."""
    missing = set(slots)
    for name, tensor in tensors:
        if name not in slots:
            raise ValueError(f"the engine's model has no tensor called {name!r}")
        slot = slots[name]
        joined = torch.Size((slot.shape[:-1].numel(), slot.shape[-1]))  # of panels
        if tensor.shape not in (slot.shape, joined):
            shapes = f"{tuple(tensor.shape)}, not {tuple(slot.shape)}"
            raise ValueError(f"tensor {name!r} has shape {shapes}")
        slot.copy_(tensor.view(slot.shape))
        missing.discard(name)
    if missing:
        raise ValueError(f"no tensor came for {sorted(missing)[0]!r} and {len(missing) - 1} others")
