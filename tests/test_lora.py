"""An adapter beside frozen weights: exact gradients, merged weights for the engine and on disk."""

from __future__ import annotations

import asyncio
import copy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import small_policies
from counting import counter
from learners import a_learner, gradient, policy, prepared, shifted
from records import group
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.rloo import RLOO
from upslope.batch import Batch
from upslope.engines.local import LocalEngine
from upslope.launch import train_recipe
from upslope.learner import Learner, frozen_copy
from upslope.ledger import Ledger
from upslope.losses import KL
from upslope.models.load import adapted, count, save, save_adapter
from upslope.models.policy import Policy, checksum
from upslope.plan import lines
from upslope.recipe import read
from upslope.resume import resume_recipe
from upslope.selfcheck import prove_logprobs
from upslope.session import Session
from upslope.settings import Learner as Settings
from upslope.sizes import memory, sizes
from upslope.sync import Synchroniser
from upslope.types import Sampling, UserError

ATTENTION = ("q_proj", "v_proj")


def adapter(
    of: Policy | None = None, *, targets: tuple[str, ...] = (), noise: float = 0.0
) -> Policy:
    """A policy with an adapter of rank 2; ``noise`` moves it off its start, where it adds 0."""
    made = adapted(of or policy(), 2, 3.0, targets, 5)
    torch.manual_seed(1)
    for tensor in made.adapter().values():
        tensor += noise * torch.randn_like(tensor)
    return made


def batch() -> Batch:
    return Batch.of([group([1.0, 0.0, 0.5]), group([0.0, 1.0], [[5, 6], [7]], id="b")])


def logits(of: Policy, tokens: Tensor) -> Tensor:
    model = copy.deepcopy(of.model)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        return model(tokens).logits


def test_at_first_it_changes_nothing_and_freezes_all_else() -> None:
    plain = policy()
    before = {name: tensor.clone() for name, tensor in plain.tensors()}
    made = adapter(plain)
    after = dict(made.tensors())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    frozen = [p for n, p in made.model.named_parameters() if ".lora_" not in n]
    assert not any(p.requires_grad for p in frozen)
    # q, k and v, o, gate and up, down, in each of two layers: rank times what goes in and out.
    sizes = (32, 24, 24, 32, 40, 40, 40)
    assert sum(p.numel() for _, p in made.trained()) == 2 * 2 * sum(sizes)
    assert count(made) == sum(tensor.numel() for tensor in before.values())


def test_its_gradient_is_that_of_the_weights_times_the_other_factor() -> None:
    """W + s B A: dB = s dW A', dA = s B' dW, with dW of the merged weights trained as a whole."""
    made = adapter(noise=0.2)
    whole = policy()
    with torch.no_grad():
        merged = dict(made.tensors())
        for name, parameter in whole.model.named_parameters():
            parameter.copy_(merged[name])
    algorithm, learners = GRPO(), (a_learner(whole), a_learner(made))
    for learner in learners:
        learner.accumulate(prepared(learner, algorithm, batch()), algorithm, 10_000)
    grads = {n: p.grad for n, p in whole.model.named_parameters()}
    own = dict(made.model.named_parameters())
    for name in [n for n in own if "lora_A" in n]:
        a, b = own[name], own[name.replace("lora_A", "lora_B")]
        of_weight = grads[name.replace(".lora_A.default", "")]
        torch.testing.assert_close(b.grad, 1.5 * of_weight @ a.T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.grad, 1.5 * b.T @ of_weight, atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for n, p in own.items() if ".lora_" not in n)


@pytest.mark.parametrize("budget", [25, 10_000])
def test_its_gradient_depends_on_no_split(budget: int) -> None:
    learner = a_learner(adapter(noise=0.2))
    part = prepared(learner, GRPO(), batch())
    want, _ = gradient(learner, part, GRPO())
    got, _ = gradient(learner, part, GRPO(), budget)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama-tied-yarn", "qwen3", "gpt2"])
def test_the_engine_samples_from_the_merged_weights(name: str) -> None:
    plain = small_policies.policy(name)
    for module in plain.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as the loader has it
    engine = LocalEngine(plain)
    before = checksum(plain.tensors())
    learner = a_learner(adapter(plain, noise=0.1))
    sync = Synchroniser(engine, Ledger())

    async def sampled() -> tuple[Batch, str]:
        await sync.load(learner, 1, moved=False)
        said = await engine.sample([5, 6, 7], Sampling(8, seed=3))
        row = group([1.0], [said.tokens.tolist()], prompt=[5, 6, 7])
        values = torch.from_numpy(said.logprobs.copy())
        of = Batch.of([row])
        return replace(of, engine_logprobs=of.engine_logprobs.masked_scatter(of.trained, values)), (
            await engine.checksum()
        )

    of, loaded = asyncio.run(sampled())
    assert loaded == checksum(learner.tensors()) != before
    prove_logprobs(learner, of)
    part = prepared(learner, RLOO(), Batch.of([group([1.0, 0.0], [[4, 5], [6, 7]], [5, 6, 7])]))
    assert learner.update(part, RLOO())["update/grad_norm"] > 0
    asyncio.run(sync.load(learner, 2, moved=True))
    assert sync.last != loaded


class Forgetful(LocalEngine):
    """Leaves the adapter out: it takes the weights as they were before."""

    async def load_weights(self, source: Learner, version: int, in_flight: str = "finish") -> None:
        class Base:
            def tensors(self) -> Iterator[tuple[str, Tensor]]:
                for name, parameter in source.policy.model.named_parameters():
                    if ".lora_" not in name:
                        yield name.replace(".base_layer", ""), parameter.detach()

        await super().load_weights(Base(), version, in_flight)


def test_an_engine_without_the_adapter_is_caught() -> None:
    plain = small_policies.policy("llama")
    engine = Forgetful(plain)
    learner = a_learner(adapter(plain, noise=0.1))
    with pytest.raises(UserError, match="the engine's weights are not the learner's"):
        asyncio.run(Synchroniser(engine, Ledger()).load(learner, 1, moved=False))
    said = asyncio.run(engine.sample([5, 6, 7], Sampling(8, seed=3)))
    of = Batch.of([group([1.0], [said.tokens.tolist()], prompt=[5, 6, 7])])
    values = torch.from_numpy(said.logprobs.copy())
    of = replace(of, engine_logprobs=of.engine_logprobs.masked_scatter(of.trained, values))
    with pytest.raises(UserError, match="its weights are stale"):
        prove_logprobs(learner, of)


@pytest.mark.parametrize("targets", [(), ATTENTION])
def test_spending_is_what_the_flop_counter_counts(targets: tuple[str, ...]) -> None:
    spent = {"update": 0.0, "reference": 0.0}

    def spend(phase: str, flops: float, tokens: int) -> None:
        spent[phase] += flops

    made = adapter(targets=targets, noise=0.1)
    algorithm = RLOO(kl=KL(0.1, "k1", "reward"))
    learner = Learner(made, Settings(micro_tokens=30), spend, frozen_copy(made))
    with counter() as reference:
        part = learner.fill(batch(), ["ref_logprobs"])
    with counter() as update:
        part = learner.fill(part, ["old_logprobs"])
        learner.update(replace(part, advantages=algorithm.advantages(part)), algorithm)
    assert spent["reference"] == pytest.approx(reference.get_total_flops(), rel=0.02)
    assert spent["update"] == pytest.approx(update.get_total_flops(), rel=0.02)


def test_the_reference_is_the_policy_of_the_stages_start_and_shares_its_weights() -> None:
    made = adapter(noise=0.1)
    learner = a_learner(made, reference=frozen_copy(made))
    start = learner.fill(batch(), ["old_logprobs"]).old_logprobs
    part = prepared(learner, RLOO(), batch())
    for _ in range(3):
        learner.update(part, RLOO())
    now = learner.fill(batch(), ["old_logprobs", "ref_logprobs"])
    torch.testing.assert_close(now.ref_logprobs, start, atol=1e-6, rtol=0)
    assert (now.old_logprobs - start).abs().max() > 1e-3
    assert learner.reference is not None
    theirs = dict(learner.reference.model.named_parameters())
    for name, parameter in made.model.named_parameters():
        shares = theirs[name].data_ptr() == parameter.data_ptr()
        assert shares == (".lora_" not in name)


def test_a_learner_goes_on_from_its_state_as_if_never_interrupted() -> None:
    straight = a_learner(adapter(), reference=shifted(policy()))
    straight = a_learner(straight.policy, reference=frozen_copy(straight.policy))
    part = prepared(straight, RLOO(), batch())
    straight.update(part, RLOO())
    again = adapter()  # the base, and an adapter at its start
    resumed = a_learner(again, reference=frozen_copy(again))
    resumed.load_state(copy.deepcopy(straight.state()))
    for learner in (straight, resumed):
        learner.update(part, RLOO())
    assert checksum(straight.tensors()) == checksum(resumed.tensors())
    filled = [x.fill(batch(), ["ref_logprobs"]).ref_logprobs for x in (straight, resumed)]
    assert torch.equal(*filled)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # asked for by peft
@pytest.mark.parametrize("name", ["llama-tied-yarn", "gpt2"])
def test_it_is_saved_merged_and_in_pefts_own_form(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    plain = small_policies.policy(name)
    save(plain, tmp_path / "base")
    made = adapter(plain, noise=0.1)
    own = {n: p.clone() for n, p in made.model.named_parameters()}
    save(made, tmp_path / "model")
    save_adapter(made, tmp_path / "adapter")
    tokens = torch.tensor([[3, 4, 5, 6, 7]])
    want = logits(made, tokens)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    assert (base(tokens).logits - want).abs().max() > 0.01
    for model in (merged, PeftModel.from_pretrained(base, tmp_path / "adapter").eval()):
        torch.testing.assert_close(model(tokens).logits, want, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(p, own[n]) for n, p in made.model.named_parameters())


def test_a_run_trains_it_and_leaves_an_ordinary_model(tmp_path: Path) -> None:
    """Two steps with a KL: the final folder gives the log-probabilities that the engine had."""
    recipe = read(
        {
            "name": "lora",
            "model": "ladder:0.1m",
            "runs": str(tmp_path),
            "env": {"type": f"{Path(__file__).with_name('plays.py')}:Digits"},
            "algorithm": {"type": "grpo", "kl": {"coefficient": 0.1}},
            "rollout": {"problems": 4, "group": 8, "max_tokens": 1},
            "learner": {"lr": 0.01},
            "lora": {"rank": 4},
            "evaluation": {"problems": 4},
            "stop": {"steps": 2},
            "machine": {"threads": 1},
        }
    )
    run = train_recipe(recipe, lambda line: None)
    rows = run.metrics()
    assert len(rows) == 2
    assert all(row["update/grad_norm"] > 0 and row["drift/max"] < 1e-4 for row in rows)
    assert rows[1]["kl/reference"] > 0
    model = AutoModelForCausalLM.from_pretrained(run.path / "model").eval()
    checkpoint = AutoModelForCausalLM.from_pretrained(run.latest() / "model")
    for one, other in zip(model.parameters(), checkpoint.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (run.path / "adapter" / "adapter_config.json").is_file()
    assert (run.latest() / "adapter" / "adapter_model.safetensors").is_file()
    policy = replace(
        small_policies.policy("llama"), name="saved", model=model, eos=(1,), context=64
    )
    said = asyncio.run(LocalEngine(policy).sample([5, 6, 7], Sampling(3, seed=1)))
    tokens = torch.tensor([[5, 6, 7, *said.tokens.tolist()]])
    logp = model(tokens).logits.log_softmax(-1)[0, 2:-1]
    own = logp.gather(-1, tokens[0, 3:, None])[:, 0]
    torch.testing.assert_close(
        own.detach(), torch.from_numpy(said.logprobs.copy()), atol=1e-5, rtol=0
    )


STAGES = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic", "digits": 1},
    "rollout": {"problems": 4, "group": 4, "max_tokens": 3},
    "learner": {"lr": 0.02},
    "lora": {"rank": 4},
    "evaluation": {"problems": 4},
    "checkpoint": {"every": 1, "keep": 99},
    "stop": {"steps": 2},
    "machine": {"threads": 1},
    "stage": [
        {"name": "sft", "algorithm": {"type": "sft"}, "source": {"type": "recorded"}},
        {
            "name": "rl",
            "env": {"type": f"{Path(__file__).with_name('plays.py')}:Digits"},
            "algorithm": {"type": "grpo", "kl": {"coefficient": 0.5}},
            "rollout": {"group": 16, "max_tokens": 1},
        },
    ],
}


def test_a_resumed_run_goes_on_bitwise(tmp_path: Path) -> None:
    """Killed in the second stage, whose reference is the adapter as the first stage left it."""
    recipe = read({**STAGES, "name": "lora", "runs": str(tmp_path)})
    run = train_recipe(recipe, lambda line: None)
    want = run.metrics()
    assert [row["stage"] for row in want] == ["sft", "sft", "rl", "rl"]
    assert want[3]["kl/reference"] > 0
    final = (run.path / "adapter" / "adapter_model.safetensors").read_bytes()
    for step in (1, 3):
        for later in range(step + 1, 5):
            shutil.rmtree(run.path / "checkpoints" / f"step-{later:06d}")
        (run.path / "result.json").unlink()
        shutil.rmtree(run.path / "adapter")
        again = resume_recipe(recipe, lambda line: None)
        numbers = [
            [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
            for rows in (want, again.metrics())
        ]
        assert numbers[0] == numbers[1]
        assert (run.path / "adapter" / "adapter_model.safetensors").read_bytes() == final


def test_the_plan_says_what_is_trained() -> None:
    made = Session(read(STAGES), print)
    said = lines(made)[0]
    own = sum(p.numel() for _, p in made.policy.trained())
    assert f"an adapter of rank 4 is trained, {own / 1e6:.3f}M parameters" in said
    held = memory(made)
    assert (held.gradients, held.optimiser, held.reference) == (4 * own, 8 * own, 4 * own)
    # No more activations than an update has tokens, however large micro-batches may be.
    assert held.activations == made.activations * max(sizes(made, s).tokens for s in made.stages)
    whole = sizes(Session(read(STAGES, ["lora.rank=0"]), print), made.stages[1]).update
    # Without the products for weight gradients two thirds are left, and what the adapter adds.
    assert 0.6 * whole < sizes(made, made.stages[1]).update < 0.8 * whole


def test_what_cannot_be_adapted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"lora.targets names 'q', which is no matrix of tiny"):
        adapter(targets=("q",))
    with pytest.raises(UserError, match=r"lora.targets names 'lm_head'"):
        adapter(targets=("q_proj", "lm_head"))
    assert {n.split(".")[4] for n in adapter(targets=ATTENTION).adapter()} == {*ATTENTION}
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs peft: pip install 'upslope\[lora\]'"):
        adapter()


def test_steps_of_an_adapter_beside_16_bit_weights_are_not_lost() -> None:
    plain = policy()
    plain.model.to(torch.bfloat16)
    made = adapter(plain)
    assert {p.dtype for _, p in made.trained()} == {torch.float32}
    assert {t.dtype for _, t in made.tensors()} == {torch.bfloat16}
    learner = a_learner(made, lr=1e-4)
    before = copy.deepcopy(made.adapter())
    learner.update(prepared(learner, GRPO(), batch()), GRPO())
    moved = [n for n, t in made.adapter().items() if not torch.equal(t, before[n])]
    assert len(moved) == len([n for n in before if "lora_B" in n])
