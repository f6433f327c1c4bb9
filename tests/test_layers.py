"""The known families' own layers against transformers' modules: values, gradients, memory."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from test_logprobs import SMALL, rows
from upslope.models import layers, logprobs
from upslope.models.flops import activation_bytes, cost_of
from upslope.models.load import adapted
from upslope.models.packing import pack
from upslope.models.policy import Policy

BIASED = {"attention_bias": True, "mlp_bias": True}
CONFIGS = {
    "llama, tied": LlamaConfig(**SMALL, tie_word_embeddings=True, pad_token_id=3),
    "llama, biases": LlamaConfig(**SMALL, **BIASED),
    "llama, scaled rotations": LlamaConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 100.0,
            "original_max_position_embeddings": 8,
        },
    ),
    "qwen2": Qwen2Config(**{k: v for k, v in SMALL.items() if k != "head_dim"}),
    "qwen3": Qwen3Config(**SMALL),
}


def policy_of(kind: str, dtype: torch.dtype = torch.float32) -> Policy:
    """With norms and biases that are neither ones nor zeros."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    policy = Policy(kind, model, None, (0,), 128, cost_of(model))
    logprobs.prepare(policy)
    return policy


def gradients(policy: Policy, passes: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Values, and the gradient of a random mix of them, added up over some passes."""
    batch = rows()
    batch["tokens"][1, 4] = 3  # of the embedding that a padding token has
    policy.model.zero_grad()
    for number in range(passes):
        mix = torch.randn(batch["tokens"].shape, generator=torch.Generator().manual_seed(number))
        values, _, _ = logprobs.token_logprobs(policy, **batch)
        (values * mix).sum().backward()
    return values, {name: p.grad.clone() for name, p in policy.model.named_parameters()}


def assert_as_the_modules_are(policy: Policy, passes: int = 1) -> None:
    assert policy.lean
    values, got = gradients(policy, passes)
    policy.lean = False
    expected, want = gradients(policy, passes)
    torch.testing.assert_close(values, expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(got, want, atol=3e-6, rtol=1e-4)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("passes", [1, 3])
def test_values_and_gradients_are_those_of_the_modules(kind: str, passes: int) -> None:
    """Of one pass, and of several that add to what is there."""
    assert_as_the_modules_are(policy_of(kind), passes)


@pytest.mark.usefixtures("library")
def test_a_gradient_is_added_to_where_it_lies() -> None:
    policy = policy_of("qwen3")
    gradients(policy)
    before = [p.grad for p in policy.model.parameters() if p.dim() == 2]
    once = [grad.clone() for grad in before]
    logprobs.token_logprobs(policy, **rows())[0].sum().backward()
    for parameter, grad, one in zip(
        (p for p in policy.model.parameters() if p.dim() == 2), before, once, strict=True
    ):
        assert parameter.grad is grad
        assert not torch.equal(grad, one)


def test_a_hook_sees_every_gradient() -> None:
    policy = policy_of("llama, tied")
    _, plain = gradients(policy, 2)
    names = ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"]
    hooks = [policy.model.get_parameter(name).register_hook(lambda g: 2 * g) for name in names]
    _, doubled = gradients(policy, 2)
    for hook in hooks:
        hook.remove()
    for name in names:
        torch.testing.assert_close(doubled[name], 2 * plain[name], atol=2e-6, rtol=1e-5)


def test_wrong_layers_are_found_out_and_the_modules_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_scale", lambda x, eps: torch.full_like(x[..., :1], 1.1))
    policy = policy_of("llama, tied")
    assert policy.packs
    assert not policy.lean


def test_what_is_put_into_a_model_runs_through_its_modules() -> None:
    assert not policy_of("llama, tied", torch.bfloat16).lean
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama, tied"])).eval()
    assert layers.known(model)
    hook = model.model.layers[1].mlp.register_forward_hook(lambda *given: None)
    assert not layers.known(model)
    hook.remove()
    assert layers.known(model)
    policy = adapted(Policy("adapted", model, None, (0,), 128, cost_of(model)), 2, 4.0, (), 0)
    assert not layers.known(model)
    assert not layers.known(model.requires_grad_(False))  # as a reference is
    logprobs.prepare(policy)
    assert policy.packs
    assert not policy.lean


def test_checkpointing_runs_through_the_modules() -> None:
    policy = policy_of("llama, tied")
    _, want = gradients(policy)
    before = kept(policy, rows())
    policy.model.train()
    policy.checkpoint_layers(True)
    assert kept(policy, rows()) < 0.7 * before
    _, got = gradients(policy)
    torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-4)


def kept(policy: Policy, batch: dict[str, torch.Tensor]) -> int:
    """Bytes of what a pass keeps for its backward pass, beside the parameters."""
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values, _, _ = logprobs.token_logprobs(policy, **batch)
    assert values.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("lean", [True, False])
def test_activations_take_what_is_said_of_them(lean: bool) -> None:
    """SmolLM2's widths: rows of four prompts of 92 tokens and completions of 64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = AutoModelForCausalLM.from_config(config)
    policy = Policy("wide", model, None, (0,), 512, cost_of(model))
    logprobs.prepare(policy)
    policy.lean = lean
    tokens = torch.randint(1, 64, (4, 156))
    tokens[:, :92] = tokens[0, :92]
    batch = {
        "tokens": tokens,
        "length": torch.full((4,), 156),
        "needed": torch.arange(156).expand(4, -1) >= 155,
        "temperature": torch.ones(4, 156),
    }
    count = len(pack(tokens, batch["length"]).tokens)
    each = activation_bytes(config, lean=lean)
    assert kept(policy, batch) == pytest.approx(count * each, rel=0.1)
    assert activation_bytes(config, lean=True) < 0.6 * activation_bytes(config)
