"""FLOPs of a forward pass, counted as the passes run: trunk, attention and head apart.

A multiply-add is two FLOPs. A backward pass costs twice its forward, and less where weights are
frozen. Norms, activations and rotary embeddings are left out, as in ``torch.utils.flop_counter``,
which the tests hold this against.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs per token through the trunk, per query-key pair (all layers) and per head row.

    ``token_back`` and ``head_back`` are of the backward pass, in which the head's logits are
    computed once more. That of attention is in ``attention``.
    """

    token: float
    pair: float
    head: float
    token_back: float
    head_back: float

    def forward(self, tokens: float, pairs: float, rows: float) -> float:
        """FLOPs of passes over so many tokens, query-key pairs and rows of the head."""
        return self.token * tokens + self.pair * pairs + self.head * rows


def cost_of(model: PreTrainedModel) -> Cost:
    """The cost of a decoder, read off its matrices; of experts, those that a token takes."""
    config: PretrainedConfig = model.config.get_text_config()
    head = model.get_output_embeddings()
    token = 2.0 * sum(size for _, _, size in _matrices(model, model, head))
    heads = int(config.num_attention_heads)
    size = int(config.to_dict().get("head_dim") or config.hidden_size // heads)
    row = 2.0 * int(config.hidden_size) * int(config.vocab_size)
    whole = all(parameter.requires_grad for parameter in model.parameters())
    return Cost(
        token=token,
        pair=4.0 * heads * size * int(config.num_hidden_layers),
        head=row,
        token_back=2 * token if whole else _backward(model, head),
        head_back=(3 if head.weight.requires_grad else 2) * row,
    )


def again(model: PreTrainedModel, layers: Iterable[nn.Module]) -> float:
    """FLOPs per token of running layers once more for their backward passes, attention apart: none
    needs what a dense layer's last matrix gives; experts' weights need what the experts gave."""
    flops = 0.0
    for layer in layers:
        own = [*_matrices(model, layer, None)]
        dense = own[-1][1].dim() == 2
        flops += 2.0 * sum(size for _, _, size in (own[:-1] if dense else own))
    return flops


def _matrices(
    model: PreTrainedModel, within: nn.Module, head: nn.Module | None
) -> Iterator[tuple[nn.Module, nn.Parameter, float]]:
    """Modules, the matrices in them, and how many of these numbers each token is multiplied with.

    Experts lie in one parameter [experts, ...], and their router is a matrix [experts, hidden].
    """
    settings = model.config.get_text_config().to_dict()
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((int(settings[n]) for n in names if settings.get(n)), 0)
    for module in within.modules():
        linear = isinstance(module, nn.Linear | Conv1D)  # Conv1D is GPT-2's linear layer
        for parameter in module.parameters(recurse=False):
            routed = experts > 0 and len(parameter) == experts
            if parameter.dim() == 2 and module is not head and (linear or routed):
                yield module, parameter, parameter.numel()
            elif parameter.dim() == 3 and routed:
                share = int(settings["num_experts_per_tok"]) / experts
                yield module, parameter, share * parameter.numel()


@torch.enable_grad()
def _backward(model: PreTrainedModel, head: nn.Module) -> float:
    """FLOPs per token back through a partly frozen trunk: one product for each matrix that is
    trained, and one for each whose input has a gradient, which a pass on two tokens shows."""
    flops, inner = 0.0, dict[nn.Module, list[tuple[nn.Parameter, float]]]()
    for module, matrix, size in _matrices(model, model, head):
        inner.setdefault(module, []).append((matrix, size))

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal flops
        for matrix, size in inner[module]:
            flops += 2 * size * (inputs[0].requires_grad + matrix.requires_grad)

    hooks = [module.register_forward_pre_hook(look) for module in inner]
    model.base_model(input_ids=torch.tensor([[0, 1]], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return flops


def activation_bytes(
    config: PretrainedConfig, *, lean: bool = False, checkpointing: bool = False
) -> int:
    """Bytes that a token's activations take until the backward pass, in FP32, about.

    ``lean``: in ``models.layers``, not in transformers' modules. With ``checkpointing`` those are
    what goes into each layer, and one layer's own of the modules.
    """
    text = config.get_text_config()
    settings = text.to_dict()
    heads = int(text.num_attention_heads)
    size = int(settings.get("head_dim") or text.hidden_size // heads)
    kv_heads = int(settings.get("num_key_value_heads") or heads)
    hidden, layers = int(text.hidden_size), int(text.num_hidden_layers)
    wide = int(settings.get("intermediate_size") or 4 * hidden)
    taken = int(settings.get("num_experts_per_tok") or 0)
    if taken:
        wide = taken * int(settings.get("moe_intermediate_size") or wide)
        wide += int(settings.get("shared_expert_intermediate_size") or 0)
    if lean and not checkpointing:
        return 4 * layers * (2 * hidden + 4 * (heads + kv_heads) * size + 2 * wide)
    floats = (8 + 4 * taken) * hidden + 3 * (heads + kv_heads) * size + 4 * wide
    return 4 * (floats + layers * hidden if checkpointing else floats * layers)
