"""`cost_of` against torch's own counter, forward and backward."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from counting import counter
from upslope.models.flops import Cost, cost_of

SHAPE = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ENDS = {"bos_token_id": None, "eos_token_id": None}
GROUPED = {"intermediate_size": 160, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CONFIGS = {
    "llama, tied head": LlamaConfig(**SHAPE, **GROUPED, **ENDS, tie_word_embeddings=True),
    "llama, own head": LlamaConfig(**SHAPE, **GROUPED, **ENDS, tie_word_embeddings=False),
    "qwen3, wide heads": Qwen3Config(**SHAPE, **GROUPED, **ENDS, head_dim=32),
    "mixtral": MixtralConfig(**SHAPE, **GROUPED, **ENDS, num_local_experts=4),
    "qwen2, experts and a shared one": Qwen2MoeConfig(
        **SHAPE, **GROUPED, **ENDS, **EXPERTS, shared_expert_intermediate_size=48
    ),
    "qwen3, experts in every second layer": Qwen3MoeConfig(
        **SHAPE, **GROUPED, **ENDS, **EXPERTS, decoder_sparse_step=2
    ),
    "gpt2": GPT2Config(**SHAPE, **ENDS, n_positions=64),
}
ROWS, LENGTH = 3, 20


def counted(
    config: PretrainedConfig, attention: str, count: Callable[[], FlopCounterMode]
) -> tuple[Cost, float, float]:
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 97
    with count() as forward:
        logits = model(tokens).logits
    with count() as backward:
        logits.sum().backward()
    return cost_of(model), forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_equals_torchs_counter_and_a_backward_pass_costs_two_forwards(
    config: PretrainedConfig,
) -> None:
    cost, forward, backward = counted(config, "eager", counter)
    tokens, pairs = ROWS * LENGTH, ROWS * LENGTH**2  # eager attention computes masked pairs too
    assert cost.forward(tokens, pairs, tokens) == pytest.approx(forward, rel=0.02)
    assert 2 * cost.forward(tokens, pairs, tokens) == pytest.approx(backward, rel=0.02)


def test_torchs_counter_does_not_see_the_pairs_of_fused_attention_on_cpu() -> None:
    plain = partial(FlopCounterMode, display=False)
    cost, forward, backward = counted(CONFIGS["llama, tied head"], "sdpa", plain)
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


def test_experts_that_no_gradient_reaches_are_counted_half() -> None:
    """With frozen matrices and trained norms, one product of two goes back."""
    config = CONFIGS["qwen2, experts and a shared one"]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    whole = cost_of(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "norm" in name
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 97
    logits = model(tokens).logits
    with counter() as backward:
        logits.sum().backward()
    cost = cost_of(model)
    assert whole.token_back == 2 * whole.token
    rows, pairs = ROWS * LENGTH, 2 * ROWS * LENGTH**2
    back = cost.token_back * rows + cost.pair * pairs + whole.head * rows
    assert back == pytest.approx(backward.get_total_flops(), rel=0.02)
