"""Mixtures of experts in whole runs: on the fast path, packed, without drift, saved for others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from upslope.launch import train_recipe
from upslope.models import ladder
from upslope.models.flops import cost_of
from upslope.models.load import load, save
from upslope.models.policy import Policy, checksum
from upslope.recipe import read
from upslope.session import Session

SHAPE = {
    "vocab_size": ladder.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
CONFIGS: Mapping[str, PretrainedConfig] = {
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=4),
    "qwen2": Qwen2MoeConfig(
        **SHAPE, num_experts=6, moe_intermediate_size=16, shared_expert_intermediate_size=24
    ),
    "qwen3": Qwen3MoeConfig(**SHAPE, num_experts=6, moe_intermediate_size=16, head_dim=8),
    "olmoe": OlmoeConfig(**SHAPE, num_experts=4),
}
RECIPE: Mapping[str, Any] = {
    "name": "mixture",
    "machine": {"threads": 1},
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 4, "group": 6, "max_tokens": 3},
    "learner": {"lr": 1e-3},
    "evaluation": {"problems": 4},
    "stage": [
        {"name": "sft", "algorithm": {"type": "sft"}, "source": {"type": "recorded"}},
        {"name": "rl"},
    ],
    "stop": {"steps": 3},
}


@pytest.fixture(params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    save(Policy("new", model, ladder.tokenizer(), (1,), 64, cost_of(model)), tmp_path / "model")
    return tmp_path / "model"


def test_a_mixture_trains_packed_on_the_fast_path_and_is_saved_for_others(folder: Path) -> None:
    recipe = read({**RECIPE, "model": str(folder), "runs": str(folder.parent)})
    assert Session(recipe, print).engine.fast
    run = train_recipe(recipe, lambda line: None)
    rows = run.metrics()
    assert len(rows) == 6
    assert max(row["drift/max"] for row in rows if row["stage"] == "rl") < 1e-5
    before, after = load(str(folder)), load(str(run.path / "model"))
    assert checksum(before.tensors()) != checksum(after.tensors())
    theirs = AutoModelForCausalLM.from_pretrained(run.path / "model", dtype=torch.float32)
    assert checksum(after.tensors()) == checksum(theirs.named_parameters())
    kept = json.loads((run.path / "model" / "config.json").read_text())
    assert kept["num_experts_per_tok"] == 2
    names = set(load_file(run.path / "model" / "model.safetensors"))
    assert names == set(load_file(folder / "model.safetensors"))
    assert any(".experts.1." in name for name in names)  # as the hub's own files have them
