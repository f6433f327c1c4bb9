"""The trained model and what the rest needs to know of it: tokenizer, end tokens, context, cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from upslope.models import flops, lora
from upslope.models.flops import Cost
from upslope.types import UserError


@dataclass(eq=False)
class Policy:
    """A causal language model with its tokenizer.

    ``eos``: every token id that ends a reply. ``context``: the most tokens a row may have.
    ``packs``: whether ``logprobs.prepare`` found that rows may share their prompts in one pass.
    ``lean``: whether ``layers`` compute that pass in place of the model's own modules.
    ``head_dtype``: what logits are computed in. ``rank``: of the adapter that is trained in place
    of the weights; 0 is none. ``again``: FLOPs per token that the backward pass
    runs a second time, beside attention's. ``tilt``: what is added to the head for whoever samples
    from the policy, while it is trained without. ``judged``: weights of the last stage's critic.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos: tuple[int, ...]
    context: int
    cost: Cost

    packs: bool = False
    lean: bool = False
    head_dtype: torch.dtype = torch.float32
    rank: int = 0
    again: float = 0.0
    tilt: Callable[[], Tensor] | None = None
    judged: dict[str, Tensor] = field(default_factory=dict)

    @property
    def trunk(self) -> nn.Module:
        """The model without its head: token ids to hidden states."""
        trunk: nn.Module = self.model.base_model
        return trunk

    def head(self) -> tuple[Tensor, Tensor | None]:
        """The head's weight [vocabulary hidden] and bias."""
        head = self.model.get_output_embeddings()
        return head.weight, head.bias

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.head()[0] is self.model.get_input_embeddings().weight

    def untie(self) -> None:
        """Give the head a weight of its own, the same at first; build the engine after it."""
        if self.tied:
            weight = nn.Parameter(self.head()[0].detach().clone())
            self.model.get_output_embeddings().weight = weight
            self.model.config.get_text_config().tie_word_embeddings = False
            self.model.config.tie_word_embeddings = False

    def tilted(self) -> dict[str, Tensor]:
        """The head as it is sampled from, by its name; nothing where that is the one trained."""
        if self.tilt is None:
            return {}
        head = self.head()[0]
        (name,) = [name for name, p in self.model.named_parameters() if p is head]
        return {name: head.detach() + self.tilt().to(head.dtype)}

    @torch.no_grad()
    def settle(self) -> None:
        """Make the head that is sampled from the policy's own."""
        for tensor in self.tilted().values():
            self.head()[0].copy_(tensor)
        self.tilt = None

    @property
    def heads(self) -> tuple[int, int, int]:
        """Query heads, key heads, and a head's size."""
        config = self.model.config.get_text_config()
        heads = int(config.num_attention_heads)
        settings = config.to_dict()
        size = settings.get("head_dim") or int(config.hidden_size) // heads
        return heads, int(settings.get("num_key_value_heads") or heads), int(size)

    @property
    def token_bytes(self) -> int:
        """That a token's keys and values take, in all layers."""
        _, heads, size = self.heads
        layers = int(self.model.config.get_text_config().num_hidden_layers)
        width: int = self.model.dtype.itemsize
        return 2 * layers * heads * size * width

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters by Hugging Face name; a tied head appears once (``types.WeightSource``).

        An adapter's are added to the weights that it belongs to, and a tilt to the head's.
        """
        if self.rank:
            yield from lora.merged(self.model)
            return
        tilted = self.tilted()
        for name, parameter in self.model.named_parameters():
            yield name, tilted.get(name, parameter.detach())

    def checkpoint_layers(self, wanted: bool) -> None:
        """Whether to keep only what goes into each layer, and run it again in the backward pass.

        Raises UserError for an architecture whose layers cannot.
        """
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if wanted and not layers:
            raise UserError(
                f"learner.checkpointing: {type(self.model).__name__} cannot run its layers again; "
                "leave it out, and lower learner.micro_tokens instead"
            )
        self.again = flops.again(self.model, layers) if wanted else 0.0
        for layer in layers:
            layer.gradient_checkpointing = wanted
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's own weights, by their names in the model; nothing where there is none."""
        return lora.added(self.model) if self.rank else {}

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that updates change, by name: an adapter's alone, where there is one."""
        for name, parameter in self.model.named_parameters():
            if not self.rank or lora.BESIDE in name:
                yield name, parameter


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A sum of bit patterns, the same however the tensors are fused, transposed or ordered.

    It tells whether two copies hold the same numbers and whether a copy has changed; that each
    number is in its place is proven by equal log-probabilities.
    """
    total = 0
    for _, tensor in tensors:
        width = torch.int32 if tensor.element_size() == 4 else torch.int16
        bits = tensor.view(width)
        if tensor.device.type == "cpu":
            # numpy adds with wrap-around at the speed of memory; torch first widens, 10x slower.
            unsigned = bits.numpy().view(np.uint32 if tensor.element_size() == 4 else np.uint16)
            total += int(unsigned.sum(dtype=np.uint32))
        else:
            mask = 2 ** (8 * tensor.element_size()) - 1  # the same bits, unsigned
            total += int((bits.to(torch.int64) & mask).sum())
    return f"{total % 2**32:08x}"
