"""Packed, padded and chunked log-probabilities against transformers' own full logits."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2MoeConfig,
    Qwen3Config,
)

from counting import counter
from upslope.models import attention, logprobs
from upslope.models.flops import cost_of
from upslope.models.packing import pack
from upslope.models.policy import Policy, checksum

SMALL = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "qwen2-moe": Qwen2MoeConfig(
        **SMALL,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=24,
    ),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "gpt2": GPT2Config(vocab_size=37, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0),
    "windowed": MistralConfig(**SMALL, sliding_window=4),
}


def policy_of(kind: str) -> Policy:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).eval()
    policy = Policy(kind, model, None, (0,), 128, cost_of(model))
    logprobs.prepare(policy)
    return policy


def rows() -> dict[str, torch.Tensor]:
    """Two groups with common prompts, a group of one, unequal lengths, mixed temperatures."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 37, (6, 12), generator=generator)
    tokens[1, :5] = tokens[0, :5]
    tokens[2, :5] = tokens[0, :5]
    tokens[4, :7] = tokens[3, :7]
    length = torch.tensor([12, 7, 6, 9, 12, 8])
    needed = torch.arange(12)[None] < length[:, None]
    needed[:, :4] = False
    temperature = torch.full(tokens.shape, 0.7)
    temperature[3:] = 1.3
    return {
        "tokens": tokens.where(torch.arange(12)[None] < length[:, None], 0),
        "length": length,
        "needed": needed,
        "temperature": temperature,
    }


def reference(policy: Policy, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One row at a time, no padding, no packing, full logits."""
    out, spread = [], []
    policy.model.set_attn_implementation("sdpa")
    for i, n in enumerate(batch["length"].tolist()):
        logits = policy.model(batch["tokens"][i : i + 1, :n]).logits[0, :-1].float()
        logp = (logits / batch["temperature"][i, 1:n, None]).log_softmax(-1)
        pad = (1, 12 - n)
        chosen = logp.gather(-1, batch["tokens"][i, 1:n, None])[:, 0]
        out.append(torch.nn.functional.pad(chosen, pad))
        spread.append(torch.nn.functional.pad(-(logp.exp() * logp).sum(-1), pad))
    keep = batch["needed"].float()
    return torch.stack(out) * keep, torch.stack(spread) * keep


def gradient(policy: Policy) -> torch.Tensor:
    grads = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    policy.model.zero_grad()
    return torch.cat(grads)


def assert_equal_to_reference(
    policy: Policy, batch: dict[str, torch.Tensor], got: torch.Tensor, entropy: torch.Tensor
) -> None:
    """Values, entropies and the gradient of a random mix of both."""
    mix = torch.randn(got.shape, generator=torch.Generator().manual_seed(2))
    ((got + 0.3 * entropy) * mix).sum().backward()
    grad = gradient(policy)
    want, want_entropy = reference(policy, batch)
    ((want + 0.3 * want_entropy) * mix).sum().backward()
    torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(entropy, want_entropy, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(grad, gradient(policy), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("share", [True, False])
def test_values_and_gradients_equal_full_logits(kind, share, monkeypatch):
    policy, batch = policy_of(kind), rows()
    assert policy.packs == (kind != "windowed")
    monkeypatch.setattr(attention, "shares_scores", lambda *_: share)
    monkeypatch.setattr(logprobs, "LOGITS", 5 * 1024)
    got, entropy, _ = logprobs.token_logprobs(policy, **batch, entropy=True)
    assert_equal_to_reference(policy, batch, got, entropy)


def test_a_shared_prompt_is_computed_once():
    batch = rows()
    packed = pack(batch["tokens"], batch["length"])
    # Group of three: 5 shared, then 6 + 1 + 0 that predict; of two: 7 + 1 + 4; alone: 7.
    assert len(packed.tokens) == (5 + 6 + 1 + 0) + (7 + 1 + 4) + 7
    assert (packed.positions[packed.state_of[2, 1:6]] == torch.arange(5)).all()


def branching(generator: torch.Generator, count: int, width: int) -> tuple[list, torch.Tensor]:
    """Rows that leave an earlier one at any place, repeat one, or end within one."""
    said: list[list[int]] = [torch.randint(1, 37, (width,), generator=generator).tolist()]
    for _ in range(count - 1):
        draw = torch.randint(0, 1000, (3,), generator=generator).tolist()
        old = said[draw[0] % len(said)]
        kept = old[: draw[1] % (len(old) + 1)]
        more = torch.randint(1, 37, (draw[2] % (width - len(kept) + 1),), generator=generator)
        said.append([*kept, *more.tolist()] if len(kept) + len(more) > 1 else old)
    tokens = torch.zeros(count, width, dtype=torch.long)
    for row, one in zip(tokens, said, strict=True):
        row[: len(one)] = torch.tensor(one)
    return said, tokens


@pytest.mark.parametrize("seed", range(8))
def test_every_state_is_that_of_its_rows_beginning_and_there_once(seed):
    said, tokens = branching(torch.Generator().manual_seed(seed), 3 + 5 * seed, 12)
    packed = pack(tokens, torch.tensor([len(row) for row in said]))
    seen: dict[int, tuple[int, ...]] = {}
    for row, states in zip(said, packed.state_of.tolist(), strict=True):
        for k, state in enumerate(states):
            if not 0 < k < len(row):
                assert state == -1
                continue
            assert seen.setdefault(state, tuple(row[:k])) == tuple(row[:k])
            assert (packed.tokens[state], packed.positions[state]) == (row[k - 1], k - 1)
    assert len(packed.tokens) == len(seen) == len(set(seen.values()))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("share", [True, False])
def test_a_tree_of_turns_has_the_numbers_of_its_rows_apart(kind, share, monkeypatch):
    """As of trajectories whose turns are alike for a while, at several depths."""
    policy = policy_of(kind)
    monkeypatch.setattr(attention, "shares_scores", lambda *_: share)
    for seed in range(4):
        said, tokens = branching(torch.Generator().manual_seed(seed), 16, 12)
        length = torch.tensor([len(row) for row in said])
        needed = (torch.arange(12) >= 1) & (torch.arange(12) < length[:, None])
        batch = {"tokens": tokens, "length": length, "needed": needed}
        batch["temperature"] = torch.ones(tokens.shape)
        if not seed:
            assert len(pack(tokens, length).layout.blocks) > 2
        policy.model.set_attn_implementation(attention.NAME)
        got, entropy, _ = logprobs.token_logprobs(policy, **batch, entropy=True)
        assert_equal_to_reference(policy, batch, got, entropy)


def with_root() -> dict[str, torch.Tensor]:
    """The same rows, all beginning with the same three tokens; one prompt is nothing more."""
    batch = rows()
    root = torch.tensor([7, 8, 9])
    tokens = torch.cat([root.expand(6, 3), batch["tokens"]], 1)[:, :12]
    length = (batch["length"] + 3).clamp(max=12)
    length[5] = 4
    inside = torch.arange(12)[None] < length[:, None]
    return {**batch, "tokens": tokens.where(inside, 0), "length": length, "needed": inside}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("share", [True, False])
def test_what_all_rows_begin_with_is_computed_once_with_equal_numbers(kind, share, monkeypatch):
    policy, batch = policy_of(kind), with_root()
    monkeypatch.setattr(attention, "shares_scores", lambda *_: share)
    got, entropy, work = logprobs.token_logprobs(policy, **batch, entropy=True)
    with counter() as counted:
        logprobs.token_logprobs(policy, **batch)
    if share:
        assert work.forward == pytest.approx(counted.get_total_flops(), rel=0.02)
    assert_equal_to_reference(policy, batch, got, entropy)


def test_rows_do_not_see_each_other():
    policy, batch = policy_of("llama"), rows()
    before = logprobs.token_logprobs(policy, **batch)[0]
    batch["tokens"][0, 8] = (batch["tokens"][0, 8] + 1) % 37
    after = logprobs.token_logprobs(policy, **batch)[0]
    torch.testing.assert_close(before[1:], after[1:], atol=1e-6, rtol=0)
    assert not torch.allclose(before[0, 8:], after[0, 8:], atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "qwen2-moe", "gpt2", "windowed"])
def test_work_is_what_the_flop_counter_counts(kind):
    policy, batch = policy_of(kind), rows()
    with counter() as forward:
        got, _, work = logprobs.token_logprobs(policy, **batch)
    with counter() as backward:
        got.sum().backward()
    assert work.forward == pytest.approx(forward.get_total_flops(), rel=0.02)
    assert work.backward == pytest.approx(backward.get_total_flops(), rel=0.02)


def test_a_bf16_model_scores_in_fp32():
    policy, batch = policy_of("llama"), rows()
    policy.model.to(torch.bfloat16)
    got = logprobs.token_logprobs(policy, **batch)[0]
    assert got.dtype == torch.float32
    want = logprobs.token_logprobs(policy_of("llama"), **batch)[0]
    torch.testing.assert_close(got, want, atol=0.1, rtol=0)
    assert not torch.equal(got, got.bfloat16().float())


def test_checksum_sees_a_changed_bit_and_no_layout():
    policy = policy_of("llama")
    before = checksum(policy.tensors())
    assert before == checksum(
        (n, t.t().contiguous() if t.ndim == 2 else t) for n, t in policy.tensors()
    )
    with torch.no_grad():
        policy.model.lm_head.weight[3, 4] += 1e-6
    assert checksum(policy.tensors()) != before
