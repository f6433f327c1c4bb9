"""Tiny learners to make by hand: a policy of a few thousand weights, and its gradient."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from upslope.batch import Batch
from upslope.learner import Learner, frozen_copy
from upslope.models.flops import cost_of
from upslope.models.policy import Policy
from upslope.settings import Learner as Settings
from upslope.settings import Rollout
from upslope.tally import Tally


def policy(vocabulary: int = 13, layers: int = 2, seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    return Policy("tiny", model, None, (0,), 64, cost_of(model))


def shifted(of: Policy, by: float = 0.1) -> Policy:
    """Another policy, near."""
    torch.manual_seed(7)
    other = frozen_copy(of)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter += by * torch.randn_like(parameter)
    return other


def plain(of: Policy) -> torch.nn.Module:
    """A copy of the model as transformers runs it."""
    model = copy.deepcopy(of.model)
    model.set_attn_implementation("sdpa")
    return model


def a_learner(
    of: Policy | None = None,
    *,
    reference: Policy | None = None,
    algorithm: Any = None,
    **settings: Any,
) -> Learner:
    """``algorithm``: of which it holds the critic, where it has one."""
    given = {"lr": 1e-2, "micro_tokens": 10_000, "clip": 0.0, **settings}
    made = Settings(**given)
    return Learner(of or policy(), made, lambda *spent: None, reference, algorithm=algorithm)


def prepared(learner: Learner, algorithm: Any, of: Batch) -> Batch:
    """The batch with what the algorithm needs, and its advantages."""
    filled = learner.fill(replace(of, state=algorithm.start()), sorted(algorithm.needs))
    return replace(filled, advantages=algorithm.advantages(filled))


def gradient(
    learner: Learner,
    of: Batch,
    algorithm: Any,
    budget: int = 10_000,
    correction: Rollout | None = None,
) -> tuple[torch.Tensor, Tally]:
    """The update's whole gradient in one row, and its tally; nothing is stepped."""
    tally = learner.accumulate(of, algorithm, budget, correction)
    parts = [p.grad.flatten() for p in learner.policy.model.parameters() if p.grad is not None]
    learner.optimiser.zero_grad()
    return (torch.cat(parts) if parts else torch.zeros(1)), tally
