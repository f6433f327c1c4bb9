"""One run from the self-check to the result: the stages of a session, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from upslope import machine, selfcheck
from upslope.batch import Batch
from upslope.curve import curve_svg
from upslope.learner import Learner
from upslope.ledger import Totals
from upslope.models.load import save
from upslope.recipe import Recipe, dump
from upslope.result import Accuracy, Result, StageResult
from upslope.runs import Run
from upslope.selfcheck import Proof
from upslope.session import Say, Session
from upslope.stages import Built
from upslope.train import train
from upslope.types import Group, Watch


def train_recipe(
    recipe: Recipe, say: Say, *, argv: Sequence[str] = (), watches: Sequence[Watch] = ()
) -> Run:
    """Train a recipe and return its finished run; the self-check first, unless it is off.

    Raises UserError for everything its user can mend.
    """
    session = Session(recipe, say, watches)
    if recipe.check.enabled:
        for proof in asyncio.run(prove(session)):
            say(f"  proven: {proof.claim} ({proof.seen})")
    with Run.create(recipe.runs, recipe.name, dump(session.recipe), recipe.seed, argv) as run:
        say(f"  run: {run.path}")
        try:
            asyncio.run(train_stages(session, run))
        except KeyboardInterrupt:
            say(f"stopped: {len(run.metrics())} steps are kept in {run.path}")
            raise
    return run


async def train_stages(session: Session, run: Run) -> Result:
    """Train every stage, then write model, curve and result."""
    step, stages = 0, list[StageResult]()
    for one in session.stages:
        first, spent = step, session.ledger.totals()
        parts = session.parts(one, run, first)
        try:
            before, step, stopped, after = await train(parts, first, one.algorithm.start())
        finally:
            await parts.source.close()
        found = (before, after, stopped)
        stages.append(stage_result(one, found, step - first, session.ledger.totals().since(spent)))
    run.save_model(lambda folder: save(session.policy, folder))
    run.save_curve(curve_svg(run.metrics(), run.evaluations(), run.name))
    totals = session.ledger.totals()
    result = Result(
        before=stages[-1].before,
        after=stages[-1].after,
        flops=totals.flops,
        seconds=totals.seconds,
        cpu_seconds=totals.cpu_seconds,
        peak_memory_bytes=machine.peak_memory(),
        steps=step,
        stopped_by=stages[-1].stopped_by,
        stages=tuple(stages),
    )
    run.finish(result)
    return result


def stage_result(
    one: Built, found: tuple[Accuracy, Accuracy, str], steps: int, spent: Totals
) -> StageResult:
    """What a stage changed and took."""
    before, after, stopped = found
    return StageResult(
        name=one.stage.name,
        before=before,
        after=after,
        steps=steps,
        flops=spent.flops,
        seconds=spent.seconds,
        cpu_seconds=spent.cpu_seconds,
        stopped_by=stopped,
    )


async def prove(session: Session) -> list[Proof]:
    """Every proof of ``selfcheck`` that applies, stage by stage; raises UserError at the first
    that fails."""
    proofs: list[Proof] = []
    for one in session.stages:
        with session.ledger.time("check"):
            found = await prove_stage(session, one)
        names = f"{one.stage.name}: " if len(session.stages) > 1 else ""
        proofs += [replace(proof, claim=names + proof.claim) for proof in found]
    return proofs


async def prove_stage(session: Session, one: Built) -> list[Proof]:
    """One stage's env, rollouts, log-probabilities and gradient."""
    k = session.recipe.check.problems
    problems = [*one.problems("train")[:k], *session.held_out(one)[:k]]
    proofs = await selfcheck.prove_env(one.env, problems, session.chat)
    learner = Learner(
        session.policy,
        one.stage.learner,
        lambda phase, flops, tokens: session.ledger.add("check", flops, tokens),
        reference=session.policy,
    )
    await session.sync.load(learner, 0, moved=False)
    proofs.append(Proof("the engine holds the learner's weights", session.sync.last))
    if one.stage.source.type == "recorded":
        source = session.source(one)
        groups: Sequence[Group] = await source.groups(2, 0, one.algorithm.keep)
        return proofs + selfcheck.prove_gradient(learner, Batch.of(groups), one.algorithm)
    player = session.player(one)
    size = min(one.stage.rollout.group, 2)
    plays = [player.group(p, 0, size, session.recipe.seed, "check") for p in problems[:2]]
    groups = await asyncio.gather(*plays)
    for group in groups:
        selfcheck.prove_trained(group, session.chat)
        for t in group.trajectories:
            used = t.usage
            session.ledger.add(
                "check", used.prefill_flops + used.decode_flops, used.computed + used.decoded
            )
    batch = Batch.of(groups, one.algorithm.start())
    # The learner against itself before it is measured against the engine.
    proofs += selfcheck.prove_gradient(learner, batch, one.algorithm)
    return [*proofs, selfcheck.prove_logprobs(learner, batch)]
