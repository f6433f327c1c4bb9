"""The self-check: silent on a sound run, and on a run with a known bug it names the cause."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch import Tensor
from torch.nn import functional

from plays import Dialogue, asked, ladder_chat, player, user
from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch, Outputs
from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.envs.arithmetic import Arithmetic
from upslope.launch import prove, train_recipe
from upslope.recipe import read
from upslope.segments import Rows, answered
from upslope.selfcheck import prove_prompt, prove_trained
from upslope.session import Session
from upslope.types import (
    Completion,
    Group,
    Message,
    Problem,
    Reply,
    Reward,
    Sampling,
    Segment,
    Split,
    Trajectory,
    UserError,
)

RECIPE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 2, "group": 4, "max_tokens": 4},
    "evaluation": {"problems": 4},
    "machine": {"threads": 1},
    "check": {"problems": 2},
}
GOLD = "gold answers earn the full reward, empty ones do not"
CLAIMS = [
    GOLD,
    "prompts are tokenised once",
    "held-out problems are not in the train split",
    "the engine holds the learner's weights",
    "the ratio is 1 before the first update",
    "the gradient does not change with split, padding or packing",
    "tokens that are not trained have no influence",
    "engine log-probabilities equal the learner's",
]


def session(*overrides: str) -> Session:
    return Session(read(RECIPE, overrides), print)


def proven(made: Session) -> dict[str, str]:
    return {proof.claim: proof.seen for proof in asyncio.run(prove(made))}


def fault(made: Session) -> str:
    with pytest.raises(UserError) as caught:
        proven(made)
    said = str(caught.value)
    assert said.startswith("self-check: ")
    assert "\n" not in said
    return said


def test_a_sound_run_proves_everything() -> None:
    seen = proven(session())
    assert list(seen) == CLAIMS
    assert seen[GOLD] == "4 of 4 problems have one"


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "cispo"])
def test_every_algorithm_passes_at_another_temperature_with_a_penalty(algorithm: str) -> None:
    made = session(
        "rollout.temperature=0.7",
        f"algorithm.type={algorithm}",
        "algorithm.kl.coefficient=0.1",
        'env.form="chat"',
    )
    assert list(proven(made)) == CLAIMS


def test_replies_that_are_all_alike_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a group says one thing, a high and a low reward leave no gradient to compare."""
    sound = LocalEngine.sample_group

    async def alike(self: LocalEngine, tokens: Sequence[int], asked: Sequence[Sampling]) -> Any:
        return await sound(self, tokens, [replace(one, seed=0) for one in asked])

    monkeypatch.setattr(LocalEngine, "sample_group", alike)
    assert list(proven(session())) == CLAIMS
    assert list(proven(session("rollout.max_tokens=1", "check.problems=1"))) == CLAIMS


def test_recorded_stages_prove_what_applies_to_them() -> None:
    made = session('algorithm.type="sft"', 'source.type="recorded"')
    assert list(proven(made)) == CLAIMS[:-1]


def test_a_held_out_problem_that_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held_out = tmp_path / "shown.jsonl", Arithmetic(digits=1).problems("test")[1]
    path.write_text(json.dumps({"prompt": held_out.prompt, "reply": held_out.solution}) + "\n")
    recorded = f'source={{type="recorded", path="{path}"}}'
    said = fault(session('algorithm.type="sft"', recorded))
    assert "1 of 4 held-out problems of Arithmetic are in its train split" in said
    assert f"such as '{held_out.id}'" in said

    def leaking(self: Arithmetic, split: Split) -> Sequence[Problem]:
        problems = sound(self, split)
        shown = replace(sound(self, "train")[5], id="leaked")
        return [shown, *problems] if split == "test" else problems

    sound = Arithmetic.problems
    monkeypatch.setattr(Arithmetic, "problems", leaking)
    assert "such as 'leaked' (there " in fault(session())


def test_what_it_spends_is_in_the_ledger_under_its_name() -> None:
    made = session()
    proven(made)
    row = made.ledger.row()
    assert row["ledger/flops/check"] == row["ledger/flops"] > 0
    assert row["ledger/training_flops"] == 0


def test_an_inverted_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    async def inverted(
        self: Arithmetic, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [Reward(float(t.text.strip() != problem.solution)) for t in trajectories]

    monkeypatch.setattr(Arithmetic, "rewards", inverted)
    said = fault(session())
    assert "earns 0 and an empty answer 1" in said
    assert "perhaps inverted" in said


def test_a_reward_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    async def generous(
        self: Arithmetic, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [Reward(1.0) for _ in trajectories]

    monkeypatch.setattr(Arithmetic, "rewards", generous)
    assert "earns 1 and an empty answer 1" in fault(session())


def test_graders_that_are_down(monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(
        self: Arithmetic, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [Reward(0.0, valid=False, reason="the judge is down") for _ in trajectories]

    monkeypatch.setattr(Arithmetic, "rewards", down)
    assert "could not be graded: the judge is down" in fault(session())
    problems = Arithmetic.problems

    def unsolved(self: Arithmetic, split: Any) -> Sequence[Problem]:
        return [replace(p, solution="") for p in problems(self, split)]

    monkeypatch.setattr(Arithmetic, "problems", unsolved)
    assert "none of the first trajectories could be graded" in fault(session())


def begun(form: str) -> Session:
    """A session whose tokenizer has a beginning of sequence, and whose template writes it."""
    made = session(f'env.form="{form}"')
    tokenizer = made.chat.tokenizer
    first = tokenizer.convert_tokens_to_ids("<|system|>")
    tokenizer.bos_token = "<|system|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", first)]
    )
    return made


@pytest.mark.parametrize("form", ["chat", "text"])
def test_a_beginning_of_sequence_is_no_fault(form: str) -> None:
    made = begun(form)
    prompt = made.chat.encode(made.chat.messages(made.stages[0].env.problems("train")[0]))
    assert prompt.count(made.chat.tokenizer.bos_token_id) == 1
    assert list(proven(made)) == CLAIMS


def begin_again(self: Chat, messages: Sequence[Message]) -> list[int]:
    """The template's beginning and the tokenizer's."""
    return self._tokens(self.text(messages), special=True)


def encode_decoded(self: Chat, messages: Sequence[Message]) -> list[int]:
    """A text that was tokens before."""
    once = self._tokens(self.text(messages), special=True)
    return self._tokens(self.tokenizer.decode(once), special=True)


def say_twice(self: Chat, messages: Sequence[Message]) -> list[int]:
    """The prompt, and the prompt."""
    return self._tokens(self.text(messages), special=False) * 2


@pytest.mark.parametrize(
    ("form", "encode"),
    [
        ("chat", begin_again),
        ("chat", encode_decoded),
        ("text", encode_decoded),
        ("text", say_twice),
    ],
)
def test_a_prompt_tokenised_twice(
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    encode: Callable[[Chat, Sequence[Message]], list[int]],
) -> None:
    monkeypatch.setattr(Chat, "encode", encode)
    assert "tokenised twice" in fault(begun(form))


def test_a_prompt_that_the_tokenizer_cannot_write() -> None:
    prove_prompt(ladder_chat(), Problem("p", prompt="it is="))
    with pytest.raises(UserError, match=r"has no token for '’', which the prompt of problem 'p'"):
        prove_prompt(ladder_chat(), Problem("p", prompt="it’s="))


def test_a_prompt_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(prompt: Sequence[int], said: Sequence[Completion]) -> Iterator[Segment]:
        for segment in answered(prompt, said):
            yield replace(segment, trained=np.ones_like(segment.trained))

    monkeypatch.setattr("upslope.rollout.answered", faulty)
    assert "prompts and replies of the env must not be trained" in fault(session())


def test_a_prompt_of_several_turns_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Rows._open

    def faulty(self: Rows, prompt: Sequence[int]) -> None:
        sound(self, prompt)
        self.trained = [True] * len(prompt)

    monkeypatch.setattr(Rows, "_open", faulty)
    with pytest.raises(UserError, match="prompts and replies of the env must not be trained"):
        prove_trained(*dialogue())


def dialogue() -> tuple[Group, Chat]:
    who, _ = player(Dialogue([Reply((user("sure?"),))]), ["no", "yes"] * 2)
    return asyncio.run(who.group(asked(), 0, 2, 0, "check")), who.chat


def test_an_envs_reply_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    prove_trained(*dialogue())
    sound = Rows.extended

    def faulty(self: Rows, longer: list[int]) -> None:
        sound(self, longer)
        self.trained[-1] = True

    monkeypatch.setattr(Rows, "extended", faulty)
    with pytest.raises(UserError, match="marks 8 tokens as trained and the engine sampled 7"):
        prove_trained(*dialogue())


def test_a_row_that_does_not_begin_with_its_prompt() -> None:
    group, chat = dialogue()
    play = group.trajectories[1]
    tokens = np.array(play.segments[0].tokens)
    tokens[3] += 1
    other = replace(play, segments=(replace(play.segments[0], tokens=tokens),))
    with pytest.raises(UserError, match="does not begin with the tokens of its prompt"):
        prove_trained(replace(group, trajectories=(group.trajectories[0], other)), chat)


def per_micro_batch(self: GRPO, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A mean over the micro-batch, where the weights are the aggregation."""
    assert batch.advantages is not None
    return -batch.advantages * out.logprobs / batch.trained.sum(), {}


def of_advantages(self: GRPO, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Sums over whole rows, prompts included."""
    assert batch.advantages is not None
    return -batch.advantages.sum(1, keepdim=True) * out.logprobs, {}


def of_engine(self: GRPO, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Weighs by what the engine said of whole rows, prompts included."""
    assert batch.advantages is not None
    gap = (out.logprobs.detach() - batch.engine_logprobs).sum(1, keepdim=True)
    return -batch.advantages * (1 + gap) * out.logprobs, {}


@pytest.mark.parametrize(
    ("loss", "cause"),
    [
        (per_micro_batch, "the loss depends on the micro-batch"),
        (of_advantages, "tokens that are not trained change the gradient"),
        (of_engine, "tokens that are not trained change the gradient"),
    ],
)
def test_a_loss_that_reads_what_it_may_not(
    monkeypatch: pytest.MonkeyPatch, loss: Any, cause: str
) -> None:
    monkeypatch.setattr(GRPO, "loss", loss)
    assert cause in fault(session())


def test_an_engine_that_ignores_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = LocalEngine.sample_group

    async def faulty(self: LocalEngine, tokens: Sequence[int], asked: Sequence[Sampling]) -> Any:
        return await sound(self, tokens, [replace(one, temperature=1.0) for one in asked])

    monkeypatch.setattr(LocalEngine, "sample_group", faulty)
    assert list(proven(session())) == CLAIMS  # at temperature 1 there is nothing to ignore
    assert "its temperature is another one" in fault(session("rollout.temperature=0.7"))


def test_a_learner_that_ignores_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Batch.of

    def faulty(groups: Sequence[Group], state: Any = None) -> Batch:
        batch = sound(groups, state)
        return replace(batch, temperature=torch.ones_like(batch.temperature))

    monkeypatch.setattr(Batch, "of", staticmethod(faulty))
    assert "its temperature is another one" in fault(session("rollout.temperature=0.7"))


def test_dropout() -> None:
    made = session()
    layer = made.policy.model.model.layers[0].mlp
    handle = layer.register_forward_hook(
        lambda module, given, out: functional.dropout(out, 0.1, module.training)
    )
    assert "perhaps by dropout" in fault(made)
    handle.remove()
    assert list(proven(made)) == CLAIMS


def test_an_engine_with_weights_of_its_own() -> None:
    made = session()
    with torch.no_grad():
        next(made.policy.model.parameters()).mul_(1.5)  # after the engine copied them
    made.engine.load_weights = lambda *given: asyncio.sleep(0)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the engine's weights are not the learner's"):
        proven(made)


def trained(folder: Path) -> None:
    """Two steps of a run that learns from its first on."""
    env = f"{Path(__file__).with_name('plays.py')}:Digits"
    raw = {**RECIPE, "env": {"type": env}, "runs": str(folder), "stop": {"steps": 2}}
    train_recipe(
        read(raw, ["rollout.group=32", "rollout.max_tokens=1", "check.enabled=false"]), print
    )


def test_stale_engine_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained(tmp_path)
    sound = LocalEngine.load_weights

    async def faulty(self: LocalEngine, source: Any, version: int, *rest: Any) -> None:
        if version == 0:
            await sound(self, source, version)

    monkeypatch.setattr(LocalEngine, "load_weights", faulty)
    with pytest.raises(UserError, match="not the learner's after loading version 1"):
        trained(tmp_path)


def test_weights_that_an_update_left_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    with pytest.raises(UserError, match="version 1 holds the same weights as the one before"):
        trained(tmp_path)
