"""The loop. Read this first: everything else is a function it calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from upslope.batch import Algorithm, Batch, Column, State
from upslope.learner import Learner
from upslope.ledger import Ledger, Totals
from upslope.measures import merged, played, rollout_metrics
from upslope.recipe import Stage
from upslope.result import Accuracy
from upslope.runs import Run
from upslope.seeds import seed_of
from upslope.settings import Stop
from upslope.trajectories import trajectory_row
from upslope.types import Metrics, Source, Watch


@dataclass(frozen=True)
class Parts:
    """One stage's recipe as objects; the last three act on engine, run and disk."""

    stage: Stage
    seed: int
    algorithm: Algorithm
    learner: Learner
    source: Source
    ledger: Ledger
    run: Run
    watches: Sequence[Watch]
    synchronise: Callable[[int, bool], Awaitable[None]]
    evaluate: Callable[[int], Awaitable[Accuracy]]
    checkpoint: Callable[[int, State], None]


async def train(p: Parts, step: int, state: State) -> tuple[Accuracy, int, str, Accuracy]:
    """Train one stage from ``step`` on: how good it was, last step, what stopped it, how good."""
    stage, first, spent = p.stage, step, p.ledger.totals()
    before = accuracy = await p.evaluate(step)
    stopped = "accuracy" if 0 < stage.stop.accuracy <= before.sampled.mean else ""
    while not stopped:
        with p.ledger.time("decode"):
            groups = await p.source.groups(stage.rollout.problems, step, p.algorithm.keep)
        p.source.observe(groups)
        metrics = rollout_metrics(groups, step) | p.source.metrics()
        with p.ledger.time("update"):
            metrics |= await asyncio.to_thread(optimise, p, Batch.of(groups, state), step)
        state = p.algorithm.advance(state, metrics)
        step += 1
        if p.source.live:
            moved = metrics["update/grad_norm"] > 0 and not metrics["update/skipped"]
            await p.synchronise(step, moved)
            p.run.log_trajectories([trajectory_row(step, stage.name, t) for t in played(groups)])
        metrics |= p.ledger.row()
        p.run.log(step, stage.name, metrics)
        actions = [a for w in p.watches for a in w.see(stage.name, step, groups, metrics)]
        so_far = p.ledger.totals().since(spent)
        stopped = "watch" if actions else bound_reached(stage.stop, step - first, so_far)
        if stopped or (stage.evaluation.every and (step - first) % stage.evaluation.every == 0):
            accuracy = await p.evaluate(step)
        if 0 < stage.stop.accuracy <= accuracy.sampled.mean:
            stopped = stopped or "accuracy"
        if stopped or (stage.checkpoint.every and step % stage.checkpoint.every == 0):
            p.checkpoint(step, state)
    return before, step, stopped, accuracy


def optimise(p: Parts, batch: Batch, step: int) -> Metrics:
    """All updates of one rollout batch: advantages once, then epochs of updates."""
    rollout, learner = p.stage.rollout, p.stage.learner
    decoupled = rollout.max_staleness > 0 and rollout.correction == "decoupled"
    compared = decoupled or learner.updates * learner.epochs > 1
    columns: list[Column] = ["old_logprobs"] if compared else []
    batch = p.learner.fill(batch, sorted({*columns, *p.algorithm.needs}))
    batch = replace(batch, advantages=p.algorithm.advantages(batch))
    if rollout.max_staleness and rollout.correction == "bypass":
        batch = replace(batch, old_logprobs=batch.engine_logprobs)
    seen: list[Metrics] = []
    for epoch in range(learner.epochs):
        for rows in batch.updates(learner.updates, seed_of(p.seed, "updates", step, epoch)):
            part = batch.rows(rows)
            if not (seen or rollout.max_staleness):
                part = replace(part, old_logprobs=None)  # the live values: ratio exactly 1
            cap = rollout.importance_cap if decoupled else 0.0
            seen.append(p.learner.update(part, p.algorithm, cap))
    return merged(seen)


def bound_reached(stop: Stop, steps: int, spent: Totals) -> str:
    """The first bound of ``stop`` that the stage has reached, "" while there is none."""
    reached = {
        "steps": (steps, stop.steps),
        "flops": (spent.flops, stop.flops),
        "hours": (spent.seconds / 3600, stop.hours),
        "money": (spent.money, stop.money),
    }
    return next((name for name, (value, bound) in reached.items() if 0 < bound <= value), "")
