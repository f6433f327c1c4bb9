"""What the stages of one run share, and each stage as the loop takes it.

What is done with them, from the self-check to the result, is in ``launch.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from upslope import machine
from upslope.assessment import Assessment
from upslope.audit.gold import gold_of
from upslope.chat import Chat
from upslope.checkpoints import Checkpoint, Place, write_checkpoint
from upslope.devices import device_of, fitting_tokens
from upslope.engines import OpensApart
from upslope.engines.apart import ApartEngine
from upslope.engines.local import LocalEngine
from upslope.learner import Learner
from upslope.ledger import Ledger, Phase, cpu_seconds
from upslope.models.flops import activation_bytes
from upslope.models.layers import known
from upslope.models.load import adapted, count, load
from upslope.names import engine_of
from upslope.optional import critic_of
from upslope.origins import refuse_longer, source_of
from upslope.provenance import RecordedSettings
from upslope.recipe import Recipe
from upslope.result import Accuracy, StageResult
from upslope.rewarding import Rewarding, playing
from upslope.rewards import Host, OpensReward
from upslope.rollback import roll_back
from upslope.rollout import Player, Thinking
from upslope.runs import Run
from upslope.scorers import reference_of, teacher_of
from upslope.stages import Built, built, refuse_recorded
from upslope.sync import Synchroniser
from upslope.threads import Threads, resolved, small
from upslope.train import Parts
from upslope.types import (
    Engine,
    Group,
    InFlight,
    Problem,
    Source,
    Split,
    UserError,
    Watch,
)

Say = Callable[[str], None]


class Session:
    """What the stages of one run share. ``watches`` see every step and evaluation.

    ``weights``: the folder of a checkpoint's model, to start from in place of the recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        say: Say,
        watches: Sequence[Watch] = (),
        weights: Path | None = None,
    ) -> None:
        self.recipe, self.say, self.watches = recipe, say, watches
        self.stages, opens = built(recipe), engine_of(recipe.engine)
        self.opened: list[tuple[OpensReward, Rewarding]] = []
        settings = recipe.learner
        self.device = device_of(recipe.machine.device)
        # An adapter is beside the weights that it began with; the learner's state has its own.
        model = recipe.model if recipe.lora.rank else str(weights or recipe.model)
        self.policy = load(model, recipe.seed, getattr(torch, settings.dtype), self.device, say)
        if any((c := critic_of(one.algorithm)) and c.decode for one in self.stages):
            self.policy.untie()
        stale = any(one.stage.rollout.max_staleness for one in self.stages)
        parameters = count(self.policy)
        threads = resolved(recipe.machine.threads, parameters, say, sides=1 + stale)
        most = 1 if stale and small(parameters) else threads
        self.threads = Threads(threads, self.sampling, self.give, most)
        if settings.head == "weights":
            self.policy.head_dtype = self.policy.model.dtype
        again = all(one.stage.learner.checkpointing for one in self.stages)
        # An adapter's layers are the modules' own.
        lean = not recipe.lora.rank and known(self.policy.model)
        self.activations = activation_bytes(
            self.policy.model.config, lean=lean, checkpointing=again
        )
        tokens = settings.micro_tokens or fitting_tokens(self.device, self.activations)
        self.recipe = recipe.model_copy(
            update={
                "machine": recipe.machine.model_copy(update={"threads": self.threads.count}),
                "learner": settings.model_copy(update={"micro_tokens": tokens}),
            }
        )
        self.stages = built(self.recipe)
        self.chat = Chat(self.policy.tokenizer, self.policy.eos)
        rows = max(b.stage.rollout.rows for b in self.stages)
        self.engine: Engine
        if stale and self.overlaps and isinstance(opens, OpensApart):
            self.engine = opens.apart(self.policy, rows, self.threads.alone)
        else:
            self.engine = opens.open(self.policy, rows)
        self.ledger = Ledger(recipe.machine.price_per_hour, cpu_clock=self.cpu_seconds)
        self.sync = Synchroniser(self.engine, self.ledger)
        lora = recipe.lora
        if lora.rank:
            self.policy = adapted(self.policy, lora.rank, lora.alpha, lora.targets, recipe.seed)
        self.teachers = {
            one.stage.name: teacher_of(self.policy, one.algorithm, say) for one in self.stages
        }
        for one in self.stages:
            self.rewarding(one)
            self.fits(one)

    def rewarding(self, one: Built) -> Rewarding:
        """What grades a stage's training groups, opened once."""
        for settings, found in self.opened:
            if settings is one.reward:
                return found
        policy, chat, engine = self.policy, self.chat, self.engine
        play = playing(self.player(one), self.recipe.seed, self.graded)
        host = Host(one.env, policy, chat, engine, self.recipe.seed, self.graded, self.say, play)
        made = Rewarding.of(one.reward, host, self.ledger, one.audit, one.stage.name)
        self.opened.append((one.reward, made))
        return self.opened[-1][1]

    def player(self, one: Built) -> Player:
        """Plays this stage's problems, graded by their env: by its true reward where it has one."""
        rollout = one.stage.rollout
        return Player(
            self.engine,
            one.env,
            self.chat,
            rollout.max_tokens,
            rollout.temperature,
            rollout.max_turns,
            thinking=Thinking.of(rollout),
            context=self.policy.context,
            greedy="greedy" in one.algorithm.needs,
            reward=gold_of(one.env),
        )

    def trainee(self, one: Built) -> Player:
        """Plays the problems that the stage trains on, graded by its reward."""
        return replace(self.player(one), reward=self.rewarding(one))

    def graded(self, flops: float, tokens: int) -> None:
        """A pass of a reward, to the ledger."""
        self.ledger.add("reward", flops, tokens)

    def learner(self, one: Built, run: Run, resumed: bool) -> Learner:
        """A fresh optimiser on the shared policy; the reference is the policy of its start."""
        reference = reference_of(
            self.policy, one.algorithm, run, one.stage.name, self.say, resumed=resumed
        )
        settings, updates = one.stage.learner, one.stage.updates
        learner = Learner(self.policy, settings, self.spend, reference, updates, one.algorithm)
        learner.teacher = self.teachers[one.stage.name]
        return learner

    def spend(self, phase: Phase, flops: float, tokens: int) -> None:
        """A pass of the learner, to the ledger; the next may have another share of the threads."""
        self.ledger.add(phase, flops, tokens)
        self.threads.share()

    def sampling(self) -> bool:
        """Whether this machine's own engine is at work; one elsewhere needs none of its threads."""
        return isinstance(self.engine, LocalEngine | ApartEngine) and self.engine.busy

    def give(self, threads: int) -> None:
        """So many threads to sampling, from the event loop's thread."""
        if isinstance(self.engine, ApartEngine):
            self.engine.use(threads)
        else:
            torch.set_num_threads(threads)

    @property
    def overlaps(self) -> bool:
        """Whether two processes can compute at once. On an accelerator they would share it."""
        return self.device == "cpu" and self.threads.count > 1

    def cpu_seconds(self) -> float:
        """Of all this run's processes."""
        own = self.engine.cpu_seconds if isinstance(self.engine, ApartEngine) else 0.0
        return cpu_seconds() + own

    def peak_memory(self) -> int:
        """The most bytes that this process has held at once, and the most that its engine's has."""
        own = self.engine.peak_memory if isinstance(self.engine, ApartEngine) else 0
        return machine.peak_memory() + own

    def close(self) -> None:
        """End what has a process of its own."""
        if isinstance(self.engine, ApartEngine):
            self.engine.close()

    def source(self, one: Built) -> Source:
        """Where this stage's groups come from."""
        return source_of(one, self.trainee(one), self.chat, self.recipe.seed, self.charge)

    def charge(self, group: Group) -> None:
        """A finished group's sampling, to the ledger."""
        for t in (*group.trajectories, *group.greedy):
            self.ledger.add("prefill", t.usage.prefill_flops, t.usage.computed)
            self.ledger.add("decode", t.usage.decode_flops, t.usage.decoded)

    def held_out(self, one: Built) -> Mapping[Split, Sequence[Problem]]:
        """The problems that this stage is evaluated on, by split."""
        settings = one.stage.evaluation
        splits: tuple[Split, ...] = ("validation", "test") if settings.select else (settings.split,)
        return {split: one.problems(split)[: settings.problems] for split in splits}

    def trained_on(self, one: Built) -> Sequence[Problem]:
        """The problems that this stage learns from."""
        played = [] if isinstance(one.source, RecordedSettings) else one.problems("train")
        return [*played, *(shown.problem for shown in one.recorded())]

    def fits(self, one: Built) -> None:
        """Refuse an env without problems to train on, and a context that the model has no room for,
        before anything is spent."""
        refuse_recorded(one)
        refuse_longer(one.recorded(), self.chat, self.recipe.model, self.policy.context)
        if not self.trained_on(one):
            raise UserError("the env has no problems in its train split: give it more")
        longest = max(
            (len(self.chat.encode(self.chat.messages(p))) for p in one.problems("train")[:50]),
            default=0,
        )
        rollout = one.stage.rollout
        if longest + self.player(one).longest > self.policy.context:
            first = f"rollout.think_tokens={rollout.think_tokens}, its window and interruption and "
            raise UserError(
                f"{first if rollout.think_tokens else ''}rollout.max_tokens={rollout.max_tokens} "
                f"after a prompt of {longest} tokens is longer than {self.recipe.model}'s context "
                f"of {self.policy.context}: lower it, or choose another model"
            )

    def assessment(self, one: Built, run: Run) -> Assessment:
        """How a stage is evaluated."""
        held_out, player, seed = self.held_out(one), self.player(one), self.recipe.seed
        return Assessment(
            one.stage, held_out, player, self.policy, self.ledger, run, self.watches, seed
        )

    def parts(
        self, one: Built, assessment: Assessment, at: Place, done: Sequence[StageResult]
    ) -> Parts:
        """A stage as the loop takes it; ``done`` are the stages before it."""
        run = assessment.run
        learner, source = self.learner(one, run, at.step > at.first), self.source(one)
        in_flight: InFlight = "keep" if one.stage.rollout.max_staleness else "finish"

        async def synchronise(version: int, moved: bool) -> None:
            await self.sync.load(learner, version, moved, in_flight)

        async def measure(step: int) -> Accuracy:
            if self.sync.version != step or not self.sync.last:
                await synchronise(step, False)
            return await assessment.measure(step)

        def checkpoint(at: Place) -> None:
            kept = Checkpoint(
                stage=one.stage.name,
                place=at,
                source=dict(source.state()),
                ledger=self.ledger.state(),
                audit=self.rewarding(one).audit.state(),
                done=tuple(done),
                rows=run.rows,
            )
            keep = one.stage.checkpoint.keep
            run.checkpoint(at.step, lambda folder: write_checkpoint(folder, learner, kept), keep)

        return Parts(
            one.looped,
            self.recipe.seed,
            one.algorithm,
            learner,
            source,
            self.ledger,
            run,
            self.watches,
            self.rewarding(one).audit.note,
            self.threads.beside,
            synchronise,
            measure,
            checkpoint,
            lambda at, to: roll_back(run, learner, synchronise, at, to, one.algorithm.start()),
        )
