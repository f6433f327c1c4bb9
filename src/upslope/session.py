"""What the stages of one run share, and each stage as the loop takes it.

What is done with them, from the self-check to the result, is in ``launch.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from upslope import machine
from upslope.batch import State
from upslope.chat import Chat
from upslope.checkpoints import Place, write_checkpoint
from upslope.components import build
from upslope.engines.local import LocalEngine
from upslope.evaluate import Both, Evaluation, evaluate
from upslope.learner import Learner, frozen_copy
from upslope.ledger import Ledger
from upslope.measures import played
from upslope.models.flops import activation_bytes
from upslope.models.load import load
from upslope.recipe import Recipe
from upslope.result import Accuracy, Estimate
from upslope.rollout import Player
from upslope.runs import Run
from upslope.sources import Demonstration, Recorded, Rollouts, read_demonstrations
from upslope.stages import Built, RecordedSettings, built
from upslope.sync import Synchroniser
from upslope.train import Parts
from upslope.trajectories import trajectory_row
from upslope.types import (
    Demonstrates,
    Group,
    InFlight,
    Metrics,
    Problem,
    Source,
    UserError,
    Watch,
)

Say = Callable[[str], None]


class Session:
    """What the stages of one run share. ``watches`` see every step and evaluation."""

    def __init__(self, recipe: Recipe, say: Say, watches: Sequence[Watch] = ()) -> None:
        self.recipe, self.say, self.watches = recipe, say, watches
        self.stages = built(recipe)
        threads = recipe.machine.threads or machine.cores()
        torch.set_num_threads(threads)
        settings = recipe.learner
        for one in self.stages:
            if one.stage.learner.dtype != settings.dtype:
                raise UserError(
                    f"stage.{one.stage.name}.learner.dtype differs from learner.dtype: the stages "
                    "train one model, so set it once"
                )
        self.device = device_of(recipe.machine.device)
        self.policy = load(
            recipe.model, recipe.seed, getattr(torch, settings.dtype), self.device, say
        )
        self.activations = activation_bytes(self.policy.model.config)
        tokens = settings.micro_tokens or fitting_tokens(self.device, self.activations)
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
            return Rollouts(
                self.player(one),
                one.problems("train"),
                size=rollout.group,
                seed=seed,
                max_staleness=rollout.max_staleness,
                tries=rollout.tries,
                finished=self.charge,
            )
        settings = build(RecordedSettings, one.stage.source.settings, "source")
        if settings.path:
            return Recorded(read_demonstrations(Path(settings.path)), self.chat, seed)
        assert isinstance(one.env, Demonstrates), "stages.refuse lets no other pass"
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
        return one.problems(settings.split)[: settings.problems]

    def fits(self, one: Built) -> None:
        """Refuse a context that the model has no room for, before anything is spent."""
        longest = max(
            (len(self.chat.encode(self.chat.messages(p))) for p in one.problems("train")[:50]),
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
            watch.see(one.stage.name, step, (), metrics)
        return accuracy


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


def fitting_tokens(device: str, per_token: int) -> int:
    """Tokens whose activations fit into a sixteenth of the memory, and into 1 GiB on a CPU."""
    room = machine.memory() // 16
    if device == "cuda":
        room = torch.cuda.mem_get_info()[0] // 4
    elif device == "cpu":
        room = min(room, 2**30)
    return max(256, min(65536, room // per_token))
