"""FLOPs of a forward pass, counted as the passes run: trunk, attention and head apart.

A multiply-add is two FLOPs; a backward pass costs twice its forward. Norms, activations and rotary
embeddings are left out, as in ``torch.utils.flop_counter``, which the tests hold this against.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs per token through the trunk, per query-key pair (all layers) and per head row."""

    token: float
    pair: float
    head: float

    def forward(self, tokens: float, pairs: float, rows: float) -> float:
        """FLOPs of passes over so many tokens, query-key pairs and rows of the head."""
        return self.token * tokens + self.pair * pairs + self.head * rows


def cost_of(model: PreTrainedModel) -> Cost:
    """The cost of a dense decoder, read off its matrices."""
    config: PretrainedConfig = model.config.get_text_config()
    head = model.get_output_embeddings()
    trunk = sum(matrix.numel() for matrix in _matrices(model, head))
    heads = int(config.num_attention_heads)
    size = int(config.to_dict().get("head_dim") or config.hidden_size // heads)
    return Cost(
        token=2.0 * trunk,
        pair=4.0 * heads * size * int(config.num_hidden_layers),
        head=2.0 * int(config.hidden_size) * int(config.vocab_size),
    )


def _matrices(model: nn.Module, head: nn.Module) -> Iterator[Tensor]:
    """The matrices that multiply every token (Conv1D is GPT-2's linear layer)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield module.get_parameter("weight")


def activation_bytes(config: PretrainedConfig) -> int:
    """Bytes that a token's activations take until the backward pass, in FP32, about."""
    text = config.get_text_config()
    settings = text.to_dict()
    heads = int(text.num_attention_heads)
    size = int(settings.get("head_dim") or text.hidden_size // heads)
    kv_heads = int(settings.get("num_key_value_heads") or heads)
    wide = int(settings.get("intermediate_size") or 4 * text.hidden_size)
    floats = 8 * int(text.hidden_size) + 3 * (heads + kv_heads) * size + 4 * wide
    return 4 * floats * int(text.num_hidden_layers)
