"""The loop. Read this first: everything else is a function it calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from upslope.batch import Algorithm, Batch, Column
from upslope.checkpoints import Place, due
from upslope.learner import Learner
from upslope.ledger import Ledger
from upslope.measures import changes, merged, played, rollout_metrics
from upslope.optional import Reports
from upslope.recipe import Stage
from upslope.result import Accuracy
from upslope.runs import Run
from upslope.seeds import seed_of
from upslope.trajectories import trajectory_row
from upslope.types import Group, Metrics, Source, Watch


@dataclass(frozen=True)
class Parts:
    """One stage's recipe as objects; the last four act on engine, run and disk. ``audit`` says what
    it found of a step; ``beside`` runs an update while the event loop goes on sampling."""

    stage: Stage
    seed: int
    algorithm: Algorithm
    learner: Learner
    source: Source
    ledger: Ledger
    run: Run
    watches: Sequence[Watch]
    audit: Callable[[Sequence[Group], Metrics], Metrics]
    beside: Callable[[Callable[[], Metrics]], Awaitable[Metrics]]
    synchronise: Callable[[int, bool], Awaitable[None]]
    evaluate: Callable[[int], Awaitable[Accuracy]]
    checkpoint: Callable[[Place], None]
    roll_back: Callable[[Place, int], Awaitable[Place]]


async def train(p: Parts, at: Place) -> Place:
    """Train one stage from a place on, its beginning or a checkpoint's; the place of its end."""
    rollout, stop, evaluation = p.stage.rollout, p.stage.stop, p.stage.evaluation
    if at.after is None:
        at = at.measured(await p.evaluate(at.step), stop)
    while not at.stopped:
        with p.ledger.time("decode"):
            groups = await p.source.groups(rollout.problems, at.step, p.algorithm.keep)
        before = at.step  # a roll-back has a version of its own
        at = await learn(p, at, groups) if groups else at.ended("signal")
        at = at.bounded(stop, p.ledger.totals())
        if at.stopped or due(at.step - at.first, evaluation.every):
            at = at.measured(await p.evaluate(at.step), stop)
        if at.stopped or at.step > before + 1 or due(at.step, p.stage.checkpoint.every):
            p.checkpoint(at)
    return at


async def learn(p: Parts, at: Place, groups: Sequence[Group]) -> Place:
    """One step: its updates, the new weights into the engine, and what there is to say of it."""
    p.source.observe(groups)
    metrics = rollout_metrics(groups, at.step, p.source.metrics())
    metrics |= p.audit(groups, metrics)
    with p.ledger.time("update"):
        batch = Batch.of(groups, at.state)
        metrics |= await p.beside(lambda: optimise(p, batch, at.step))
    at, name = at.moved(p.algorithm.advance(at.state, metrics)), p.stage.name
    if due(at.step - at.first, p.source.sync):
        await p.synchronise(at.step, changes(metrics))
    if p.source.sync:
        p.run.log_trajectories([trajectory_row(at.step, name, t) for t in played(groups)])
    metrics |= p.ledger.row()
    p.run.log(at.step, name, metrics)
    actions = [action for w in p.watches for action in w.see(name, at.step, groups, metrics)]
    if back := [action for action in actions if isinstance(action, int)]:
        at = await p.roll_back(at, min(back))
    return at.ended("watch" if "stop" in actions else "")


def optimise(p: Parts, batch: Batch, step: int) -> Metrics:
    """All updates of one rollout batch: advantages once, then epochs of updates."""
    rollout, learner = p.stage.rollout, p.stage.learner
    stale = rollout if rollout.corrects else None
    several = learner.updates * learner.epochs > 1  # a single update's own values are the old ones
    columns: list[Column] = ["old_logprobs"] if several else []
    batch = p.learner.fill(batch, sorted({*columns, *p.algorithm.needs}))
    batch = replace(batch, advantages=p.algorithm.advantages(batch))
    if rollout.max_staleness and rollout.correction == "bypass":
        batch = replace(batch, old_logprobs=batch.engine_logprobs)
    said = p.algorithm.report(batch) if isinstance(p.algorithm, Reports) else {}
    seen: list[Metrics] = []
    for epoch in range(learner.epochs):
        for rows in batch.updates(learner.updates, seed_of(p.seed, "updates", step, epoch)):
            part = batch.rows(rows)
            if not (seen or rollout.max_staleness):
                part = replace(part, old_logprobs=None)  # the live values: ratio exactly 1
            seen.append(p.learner.update(part, p.algorithm, stale))
    return merged(seen) | said
