"""`cost_of` against torch's own counter, forward and backward."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
)

from upslope.models.flops import Cost, cost_of

SHAPE = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ENDS = {"bos_token_id": None, "eos_token_id": None}
GROUPED = {"intermediate_size": 160, "num_key_value_heads": 2}
CONFIGS = {
    "llama, tied head": LlamaConfig(**SHAPE, **GROUPED, **ENDS, tie_word_embeddings=True),
    "llama, own head": LlamaConfig(**SHAPE, **GROUPED, **ENDS, tie_word_embeddings=False),
    "qwen3, wide heads": Qwen3Config(**SHAPE, **GROUPED, **ENDS, head_dim=32),
    "gpt2": GPT2Config(**SHAPE, **ENDS, n_positions=64),
}
ROWS, LENGTH = 3, 20


def counted(config: PretrainedConfig, attention: str) -> tuple[Cost, float, float]:
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 97
    with FlopCounterMode(display=False) as forward:
        logits = model(tokens).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    return cost_of(model), forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_equals_torchs_counter_and_a_backward_pass_costs_two_forwards(
    config: PretrainedConfig,
) -> None:
    cost, forward, backward = counted(config, "eager")
    tokens, pairs = ROWS * LENGTH, ROWS * LENGTH**2  # eager attention computes masked pairs too
    assert cost.forward(tokens, pairs, tokens) == pytest.approx(forward, rel=0.02)
    assert 2 * cost.forward(tokens, pairs, tokens) == pytest.approx(backward, rel=0.02)


def test_torchs_counter_does_not_see_the_pairs_of_fused_attention_on_cpu() -> None:
    cost, forward, backward = counted(CONFIGS["llama, tied head"], "sdpa")
    tokens = ROWS * LENGTH
    assert cost.forward(tokens, 0, tokens) == pytest.approx(forward, rel=0.02)
    assert 2 * cost.forward(tokens, 0, tokens) == pytest.approx(backward, rel=0.02)


def test_counts_by_hand() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama, tied head"])
    layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160  # q, k and v, o, feed-forward
    row = 2 * 64 * 97
    assert cost_of(model) == Cost(
        token=2 * 2 * layer,
        pair=4 * 4 * 16 * 2,
        head=row,
        token_back=2 * 2 * 2 * layer,
        head_back=3 * row,
    )
