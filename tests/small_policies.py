"""Random policies of a few thousand parameters: one for each shape of model engines must take."""

from __future__ import annotations

import copy

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from upslope.models.flops import cost_of
from upslope.models.policy import Policy

# Words rather than characters, so that stop strings span tokens and lie inside them.
WORDS = ["<pad>", "<eos>", "<end>", *"abcdefgh .\n", "ab", "bc", "c d", "d\ne", "\n\n", "gh. "]
EOS = (1, 2)
CONTEXT = 48
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 3.0}
YARN["original_max_position_embeddings"] = 16

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 20, "num_experts": 5}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama-tied-yarn": LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters=YARN),
    "qwen2": Qwen2Config(**{**SMALL, "num_key_value_heads": 4}, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
    "qwen2-moe": Qwen2MoeConfig(**SMALL, **EXPERTS, shared_expert_intermediate_size=24),
    "qwen3-moe": Qwen3MoeConfig(
        **{**SMALL, "num_hidden_layers": 3}, **EXPERTS, norm_topk_prob=True, mlp_only_layers=[1]
    ),
    "olmoe": OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2),
    "gpt2": GPT2Config(
        vocab_size=len(WORDS),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
    ),
    "gemma": GemmaConfig(**SMALL),
    "mistral-windowed": MistralConfig(**SMALL, sliding_window=6),
}
SPARSE = ("mixtral", "qwen2-moe", "qwen3-moe", "olmoe")
FAST = ("llama", "llama-tied-yarn", "qwen2", "qwen3", *SPARSE)
SLOW = ("gpt2", "gemma", "mistral-windowed")


def tokenizer() -> PreTrainedTokenizerFast:
    """One that can decode ``WORDS``, and encode the single characters among them."""
    words = Tokenizer(models.BPE({w: i for i, w in enumerate(WORDS)}, []))
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", additional_special_tokens=[]
    )


def policy(name: str, seed: int = 0, *, noise: float = 0.1) -> Policy:
    """A random policy; ``noise`` moves norms and biases off the ones and zeros they begin with."""
    config = copy.deepcopy(CONFIGS[name])  # a model's own: preparing it changes its attention
    torch.manual_seed(seed)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += noise * torch.randn_like(parameter)
    return Policy(name, model, tokenizer(), EOS, CONTEXT, cost_of(model))
