"""Tiny character-level models built from scratch: ``ladder:0.1m`` to ``ladder:30m``, dense.

The architecture is Llama's, that of the smallest real model here (SmolLM2), so that whatever is
proven on the ladder is proven of the code a real model runs through. Not pretrained: a new model
knows nothing, and is warmed up by supervised fine-tuning.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from upslope.seeds import seed_of
from upslope.types import UserError

PREFIX = "ladder:"
CONTEXT = 512
HEAD = 32
# initial weights have this over the root of the width as standard deviation: at the usual 0.02 so
# narrow a model learns nothing of 2-digit addition in the steps that take this one to two thirds
SPREAD = 0.7
PAD, END, UNKNOWN = "<|pad|>", "<|eos|>", "<|unk|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIALS = (PAD, END, UNKNOWN, *(f"<|{role}|>" for role in ROLES))
CHARACTERS = "\n" + "".join(sorted(string.printable[:95]))
VOCABULARY = len(SPECIALS) + len(CHARACTERS)

# a role, its words, and the end of what the assistant said: nothing that a turn must re-tokenise
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|eos|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Width of the residual stream, number of layers, width inside the feed-forward block."""

    hidden: int
    layers: int
    inner: int

    @property
    def parameters(self) -> int:
        """Exact count; the output head is the embedding and counts once."""
        layer = self.hidden * (4 * self.hidden + 3 * self.inner + 2)
        return VOCABULARY * self.hidden + self.layers * layer + self.hidden


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "0.1m": Shape(64, 2, 160),
        "0.3m": Shape(96, 3, 224),
        "0.6m": Shape(128, 3, 336),
        "1m": Shape(160, 3, 448),
        "2m": Shape(192, 4, 576),
        "5m": Shape(256, 6, 704),
        "10m": Shape(384, 6, 960),
        "30m": Shape(576, 8, 1440),
    }
)


def sizes() -> dict[str, int]:
    """Every size with its exact number of parameters, smallest first."""
    return {size: shape.parameters for size, shape in SHAPES.items()}


def build(size: str, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A float32 model of that size and its tokenizer; the same numbers for the same seed."""
    if size not in SHAPES:
        raise UserError(f"no ladder model has the size {size!r}: choose {', '.join(SHAPES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("ladder", size, seed))
        model = LlamaForCausalLM(_config(SHAPES[size]))
    return model.eval(), tokenizer()


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: printable ASCII and newline, anything else being ``<|unk|>``."""
    words = {word: i for i, word in enumerate((*SPECIALS, *CHARACTERS))}
    # byte pair encoding without a single merge leaves every character alone
    letters = Tokenizer(models.BPE(vocab=words, merges=[], unk_token=UNKNOWN))
    letters.decoder = decoders.Fuse()
    letters.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=letters,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def _config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD,
        num_key_value_heads=shape.hidden // HEAD,
        max_position_embeddings=CONTEXT,
        initializer_range=SPREAD / shape.hidden**0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=SPECIALS.index(END),
        pad_token_id=SPECIALS.index(PAD),
        dtype="float32",
    )
