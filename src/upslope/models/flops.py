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
    """The cost of a dense decoder, read off its matrices."""
    config: PretrainedConfig = model.config.get_text_config()
    head = model.get_output_embeddings()
    token = 2.0 * sum(m.get_parameter("weight").numel() for m in _matrices(model, head))
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


def again(layers: Iterable[nn.Module]) -> float:
    """FLOPs per token of running layers once more for their backward passes, attention apart: none
    needs what a layer's last matrix gives."""
    matrices = ([*_matrices(layer, None)][:-1] for layer in layers)
    return 2.0 * sum(m.get_parameter("weight").numel() for own in matrices for m in own)


def _matrices(model: nn.Module, head: nn.Module | None) -> Iterator[nn.Module]:
    """What multiplies every token by a matrix (Conv1D is GPT-2's linear layer)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield module


@torch.enable_grad()
def _backward(model: PreTrainedModel, head: nn.Module) -> float:
    """FLOPs per token back through a partly frozen trunk: one product for each matrix that is
    trained, and one for each whose input has a gradient, which a pass on two tokens shows."""
    flops = 0.0

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal flops
        weight = module.get_parameter("weight")
        flops += 2 * weight.numel() * (inputs[0].requires_grad + weight.requires_grad)

    hooks = [matrix.register_forward_pre_hook(look) for matrix in _matrices(model, head)]
    model.base_model(input_ids=torch.tensor([[0, 1]], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return flops


def activation_bytes(config: PretrainedConfig, *, checkpointing: bool = False) -> int:
    """Bytes that a token's activations take until the backward pass, in FP32, about.

    With ``checkpointing`` those are what goes into each layer, and one layer's own.
    """
    text = config.get_text_config()
    settings = text.to_dict()
    heads = int(text.num_attention_heads)
    size = int(settings.get("head_dim") or text.hidden_size // heads)
    kv_heads = int(settings.get("num_key_value_heads") or heads)
    wide = int(settings.get("intermediate_size") or 4 * text.hidden_size)
    floats = 8 * int(text.hidden_size) + 3 * (heads + kv_heads) * size + 4 * wide
    layers = int(text.num_hidden_layers)
    return 4 * (floats + layers * int(text.hidden_size) if checkpointing else floats * layers)
