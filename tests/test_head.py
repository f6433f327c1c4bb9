"""The dtype of the head's product, in the engine and in the learner alike."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

import small_policies
from learners import a_learner, prepared
from records import group
from upslope.algorithms.rloo import RLOO
from upslope.batch import Batch
from upslope.engines.local import LocalEngine
from upslope.models.policy import Policy, checksum
from upslope.recipe import read
from upslope.session import Session
from upslope.types import Sampling, UserError

PROMPT = [5, 6, 7]
HEADS = {"float32": torch.float32, "weights": torch.bfloat16}


def halved(name: str, head: str) -> Policy:
    """A policy of 16-bit weights, without dropout, as the loader has it."""
    made = small_policies.policy(name)
    for parameter in made.model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return replace(made, head_dtype=HEADS[head])


def drift(name: str, head: str) -> float:
    """Distance of the engine's log-probabilities from the learner's, root mean square, 32 replies.

    The head has one large column: like those of trained models, its logits are large together,
    which changes no probability, but leaves 16 bits few for their differences.
    """
    made = halved(name, head)
    with torch.no_grad():
        made.head()[0][:, 0] = 128.0
    engine, learner = LocalEngine(made), a_learner(made)

    async def said() -> list[float]:
        plays = [engine.sample(PROMPT, Sampling(12, seed=seed)) for seed in range(32)]
        apart = []
        for play in await asyncio.gather(*plays):
            of = Batch.of([group([1.0], [play.tokens.tolist()], PROMPT)])
            ours = learner.fill(of, ["old_logprobs"]).old_logprobs[of.trained]
            apart += (ours - torch.from_numpy(play.logprobs.copy())).abs().tolist()
        return apart

    apart = asyncio.run(said())
    assert len(apart) > 30
    return (sum(x * x for x in apart) / len(apart)) ** 0.5


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_float32_head_brings_engine_and_learner_together(name: str) -> None:
    """As MiniMax-M1 (arXiv:2506.13585) and ScaleRL (arXiv:2510.13786) have it."""
    exact, rough = drift(name, "float32"), drift(name, "weights")
    assert exact < 0.5 * rough


@pytest.mark.parametrize("name", ["llama-tied-yarn", "gpt2"])
@pytest.mark.parametrize("head", HEADS)
def test_both_sides_compute_it_in_the_same_dtype(name: str, head: str) -> None:
    """From one hidden state, decoder and learner give one number; the other dtype another."""
    made = halved(name, head)
    learner = a_learner(made)
    tokens = torch.tensor([[*PROMPT, 8]])
    with torch.no_grad():
        state = made.trunk(input_ids=tokens[:, :3], use_cache=False, **inputs(made))[0][0, -1]
        weight, _ = made.head()
        product = (weight.to(HEADS[head]) @ state.to(HEADS[head])).float()
    want = product.log_softmax(-1)[8]
    of = Batch.of([group([1.0], [[8]], PROMPT)])
    ours = learner.fill(of, ["old_logprobs"]).old_logprobs[0, 3]
    torch.testing.assert_close(ours, want, atol=1e-5 if head == "float32" else 0.05, rtol=0)


def inputs(made: Policy) -> dict[str, object]:
    """Plain attention, whatever the learner has prepared."""
    made.model.set_attn_implementation("sdpa")
    made.packs = False
    return {}


@pytest.mark.parametrize("name", ["llama-tied-yarn", "llama", "gemma"])
def test_new_weights_reach_the_engines_copy_of_the_head(name: str) -> None:
    made = halved(name, "float32")
    engine, learner = LocalEngine(made), a_learner(made, lr=0.05)
    part = prepared(learner, RLOO(), Batch.of([group([1.0, 0.0], [[8, 9], [10, 1]], PROMPT)]))
    before = float(learner.fill(part, ["old_logprobs"]).old_logprobs.sum())
    for version in (1, 2):
        learner.update(part, RLOO())
        after = float(learner.fill(part, ["old_logprobs"]).old_logprobs.sum())
        assert abs(after - before) > 0.5  # far more than what rounding may do below
        before = after
        asyncio.run(engine.load_weights(learner, version))
        assert asyncio.run(engine.checksum()) == checksum(learner.tensors())
        said = asyncio.run(engine.sample(PROMPT, Sampling(1, seed=version)))
        of = Batch.of([group([1.0], [said.tokens.tolist()], PROMPT)])
        ours = float(learner.fill(of, ["old_logprobs"]).old_logprobs[of.trained])
        assert ours == pytest.approx(float(said.logprobs[0]), abs=0.05)


def test_with_float32_weights_it_changes_nothing() -> None:
    of = Batch.of([group([1.0, 0.0], [[8, 9], [10, 1]], PROMPT)])
    one = small_policies.policy("llama")
    assert one.head_dtype == torch.float32
    filled = a_learner(one).fill(of, ["old_logprobs"]).old_logprobs
    plain = one.model
    plain.set_attn_implementation("sdpa")
    want = plain(of.tokens[:, :-1]).logits.log_softmax(-1).gather(-1, of.tokens[:, 1:, None])
    torch.testing.assert_close(
        filled[:, 1:][of.trained[:, 1:]], want[..., 0][of.trained[:, 1:]], atol=1e-5, rtol=0
    )


def test_the_recipe_says_which() -> None:
    recipe = {"model": "ladder:0.1m", "env": {"type": "arithmetic", "digits": 1}}
    recipe |= {"algorithm": {"type": "grpo"}, "learner": {"dtype": "bfloat16"}}
    recipe |= {"machine": {"threads": 1}}
    assert Session(read(recipe), print).policy.head_dtype == torch.float32
    made = Session(read(recipe, ['learner.head="weights"']), print)
    assert made.policy.head_dtype == torch.bfloat16
    stages = {"stage": [{"name": "a"}, {"name": "b", "learner": {"head": "weights"}}]}
    with pytest.raises(UserError, match=r"stage.b.learner.head differs from learner.head"):
        Session(read({**recipe, **stages}), print)
