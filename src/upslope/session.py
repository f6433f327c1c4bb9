"""A recipe's names as objects: the only place where names become objects.

What is done with them, from the self-check to the result, is in ``launch.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from upslope import machine
from upslope.algorithms import ALGORITHMS
from upslope.batch import Algorithm, State
from upslope.chat import Chat
from upslope.checkpoints import Place, write_checkpoint
from upslope.components import build, find
from upslope.engines.local import LocalEngine
from upslope.envs import ENVS
from upslope.evaluate import Both, Evaluation, evaluate
from upslope.learner import Learner, frozen_copy
from upslope.ledger import Ledger
from upslope.measures import played
from upslope.models.load import load
from upslope.models.policy import Policy
from upslope.recipe import Recipe, Stage
from upslope.result import Accuracy, Estimate
from upslope.rollout import Player
from upslope.runs import Run
from upslope.settings import Component
from upslope.sources import Demonstration, Recorded, Rollouts, read_demonstrations
from upslope.sync import Synchroniser
from upslope.train import Parts
from upslope.trajectories import trajectory_row
from upslope.types import (
    Demonstrates,
    Env,
    Group,
    InFlight,
    Metrics,
    Problem,
    Source,
    UserError,
    Watch,
)

Say = Callable[[str], None]
SOURCES = {"rollouts", "recorded"}


@dataclass(frozen=True)
class RecordedSettings:
    """``source = {type = "recorded"}``: a JSONL ``path``, or the env's own demonstrations."""

    path: str = ""


def component(kinds: Mapping[str, str], given: Component | None, kind: str, at: str) -> Any:
    """An env or algorithm from its table."""
    if given is None:
        raise UserError(f"{at} is missing: name one, as in [{kind}] type = {next(iter(kinds))!r}")
    return build(find(kinds, given.type, kind), given.settings, at)


def env_of(given: Component | None, at: str = "env") -> Env:
    """An env from its table."""
    return cast(Env, component(ENVS, given, "env", at))


def algorithm_of(given: Component | None, at: str = "algorithm") -> Algorithm:
    """An algorithm from its table."""
    return cast(Algorithm, component(ALGORITHMS, given, "algorithm", at))


@dataclass(frozen=True)
class Built:
    """A stage with its env and algorithm, checked against each other before a model is loaded."""

    stage: Stage
    env: Env
    algorithm: Algorithm


def built(recipe: Recipe) -> list[Built]:
    """All stages; raises UserError for what cannot work whatever the model is."""
    out = []
    for stage in recipe.stages():
        at = f"stage.{stage.name}." if recipe.stage else ""
        one = Built(
            stage,
            env_of(stage.env, f"{at}env"),
            algorithm_of(stage.algorithm, f"{at}algorithm"),
        )
        refuse(one, at)
        out.append(one)
    return out


def refuse(one: Built, at: str) -> None:
    """Contradictions between a stage's parts."""
    stage, name = one.stage, one.stage.algorithm.type
    compares = "equal_rewards_no_signal" in one.algorithm.claims
    if stage.source.type not in SOURCES:
        raise UserError(
            f"{at}source.type={stage.source.type!r} is unknown: use one of {sorted(SOURCES)}"
        )
    if stage.source.type == "rollouts" and compares and stage.rollout.group == 1:
        raise UserError(
            f"{at}rollout.group=1 leaves {name} nothing to compare a reward with, so nothing "
            "would be learned: use at least 2, or the algorithm reinforce"
        )
    if stage.source.type == "recorded" and compares:
        raise UserError(
            f"{at}algorithm {name} compares the members of a group and recorded groups have one "
            "member: use sft, or rollouts as the source"
        )
    if stage.source.type == "rollouts" and name == "sft":
        raise UserError(
            f'{at}algorithm sft learns from given replies: set {at}source.type = "recorded"'
        )


class Session:
    """What the stages of one run share. ``watches`` see every step and evaluation."""

    def __init__(self, recipe: Recipe, say: Say, watches: Sequence[Watch] = ()) -> None:
        self.recipe, self.say, self.watches = recipe, say, watches
        self.stages = built(recipe)
        threads = recipe.machine.threads or machine.cores()
        torch.set_num_threads(threads)
        settings = recipe.learner
        self.device = device_of(recipe.machine.device)
        self.policy = load(
            recipe.model, recipe.seed, getattr(torch, settings.dtype), self.device, say
        )
        tokens = settings.micro_tokens or fitting_tokens(self.policy)
        self.recipe = recipe.model_copy(
            update={
                "machine": recipe.machine.model_copy(update={"threads": threads}),
                "learner": settings.model_copy(update={"micro_tokens": tokens}),
            }
        )
        self.stages = built(self.recipe)
        self.chat = Chat(self.policy.tokenizer, self.policy.eos)
        self.ledger = Ledger(recipe.machine.price_per_hour)
        self.engine = LocalEngine(self.policy, max(b.stage.rollout.rows for b in self.stages))
        self.sync = Synchroniser(self.engine, self.ledger)
        for one in self.stages:
            self.fits(one)

    def player(self, one: Built) -> Player:
        """Plays this stage's problems."""
        rollout = one.stage.rollout
        return Player(
            self.engine,
            one.env,
            self.chat,
            rollout.max_tokens,
            rollout.temperature,
            rollout.max_turns,
        )

    def learner(self, one: Built) -> Learner:
        """A fresh optimiser on the shared policy."""
        needed = "ref_logprobs" in one.algorithm.needs
        reference = frozen_copy(self.policy) if needed else None
        return Learner(self.policy, one.stage.learner, self.ledger.add, reference)

    def source(self, one: Built) -> Source:
        """Where this stage's groups come from."""
        rollout, seed = one.stage.rollout, self.recipe.seed
        if one.stage.source.type == "rollouts":
            build(NoSettings, one.stage.source.settings, "source")
            return Rollouts(
                self.player(one),
                one.env.problems("train"),
                size=rollout.group,
                seed=seed,
                max_staleness=rollout.max_staleness,
                tries=rollout.tries,
                finished=self.charge,
            )
        settings = build(RecordedSettings, one.stage.source.settings, "source")
        if settings.path:
            return Recorded(read_demonstrations(Path(settings.path)), self.chat, seed)
        if not isinstance(one.env, Demonstrates):
            raise UserError(
                f"env {one.stage.env.type} writes no demonstrations: give source.path a JSONL file"
            )
        shown = [Demonstration(p, reply) for p, reply in one.env.demonstrations("train")]
        return Recorded(shown, self.chat, seed)

    def charge(self, group: Group) -> None:
        """A finished group's sampling, to the ledger."""
        for t in group.trajectories:
            self.ledger.add("prefill", t.usage.prefill_flops, t.usage.computed)
            self.ledger.add("decode", t.usage.decode_flops, t.usage.decoded)

    def held_out(self, one: Built) -> Sequence[Problem]:
        """The problems that this stage is evaluated on."""
        settings = one.stage.evaluation
        return one.env.problems(settings.split)[: settings.problems]

    def fits(self, one: Built) -> None:
        """Refuse a context that the model has no room for, before anything is spent."""
        longest = max(
            (len(self.chat.encode(self.chat.messages(p))) for p in one.env.problems("train")[:50]),
            default=0,
        )
        wanted = longest + one.stage.rollout.max_tokens
        if wanted > self.policy.context:
            raise UserError(
                f"rollout.max_tokens={one.stage.rollout.max_tokens} after a prompt of {longest} "
                f"tokens is longer than {self.recipe.model}'s context of {self.policy.context}: "
                "lower it, or choose another model"
            )

    def parts(self, one: Built, run: Run, first: int) -> Parts:
        """A stage as the loop takes it."""
        learner, source = self.learner(one), self.source(one)
        player, problems = self.player(one), self.held_out(one)
        in_flight: InFlight = "keep" if one.stage.rollout.max_staleness else "finish"

        async def synchronise(version: int, moved: bool) -> None:
            await self.sync.load(learner, version, moved, in_flight)

        async def measure(step: int) -> Accuracy:
            if self.sync.version != step or not self.sync.last:
                await synchronise(step, False)
            with self.ledger.time("evaluation"):
                both = await evaluate(
                    player, problems, one.stage.evaluation.samples, self.recipe.seed
                )
            return self.evaluated(one, run, step, both)

        def checkpoint(step: int, state: State) -> None:
            place = Place(
                one.stage.name, step, first, dict(state), source.state(), self.ledger.state()
            )
            keep = one.stage.checkpoint.keep
            run.checkpoint(step, lambda folder: write_checkpoint(folder, learner, place), keep)

        return Parts(
            one.stage,
            self.recipe.seed,
            one.algorithm,
            learner,
            source,
            self.ledger,
            run,
            self.watches,
            synchronise,
            measure,
            checkpoint,
        )

    def evaluated(self, one: Built, run: Run, step: int, both: Both) -> Accuracy:
        """Record an evaluation and show it to the watches."""
        used = both.usage
        self.ledger.add(
            "evaluation", used.prefill_flops + used.decode_flops, used.computed + used.decoded
        )
        accuracy = Accuracy(sampled=estimate(both.sampled), greedy=estimate(both.greedy))
        metrics: Metrics = {**accuracy.metrics(), **details(both), **self.ledger.row()}
        run.log_evaluation(step, one.stage.name, metrics)
        name = f"{one.stage.name}/evaluation"
        rows = [trajectory_row(step, name, t) for t in played(both.groups)]
        run.log_trajectories(rows)
        for watch in self.watches:
            watch.see(step, (), metrics)
        return accuracy


@dataclass(frozen=True)
class NoSettings:
    """A component without settings of its own."""


def estimate(evaluation: Evaluation) -> Estimate:
    """An evaluation as ``result.json`` keeps it."""
    return Estimate(
        mean=evaluation.mean,
        low=evaluation.low,
        high=evaluation.high,
        problems=evaluation.problems,
    )


def details(both: Both) -> Metrics:
    """What else an evaluation saw, of its sampled answers."""
    seen = both.sampled
    return {
        "evaluation/sampled/length": seen.length,
        "evaluation/sampled/reward": seen.reward,
        "evaluation/sampled/truncated_share": seen.truncated,
        "evaluation/sampled/invalid": float(seen.invalid),
    }


def device_of(name: str) -> str:
    """The device to use; "auto" takes an accelerator where there is one."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fitting_tokens(policy: Policy) -> int:
    """Tokens whose activations fit into a sixteenth of the memory, and into 1 GiB on a CPU."""
    settings = policy.model.config.get_text_config()
    heads, kv_heads, size = policy.heads
    wide = settings.to_dict().get("intermediate_size") or 4 * settings.hidden_size
    floats = 8 * settings.hidden_size + 3 * (heads + kv_heads) * size + 4 * wide
    per_token = 4 * floats * settings.num_hidden_layers
    if policy.model.device.type == "cuda":
        room = torch.cuda.mem_get_info()[0] // 4
    else:
        room = min(machine.memory() // 16, 2**30)
    return max(256, min(65536, int(room // per_token)))
