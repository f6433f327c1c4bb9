"""One run from the self-check to the result: the stages of a session, in order."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from upslope import machine, selfcheck
from upslope.alarms import Collapse, OnCollapse, checked
from upslope.batch import Batch
from upslope.checkpoints import Checkpoint, Place
from upslope.curve import curve_svg
from upslope.learner import Learner
from upslope.models.load import save, save_adapter
from upslope.optional import reported
from upslope.recipe import Recipe, dump
from upslope.result import Result, StageResult
from upslope.runs import Run
from upslope.scaling.worth import Worth
from upslope.selfcheck import Proof
from upslope.session import Say, Session
from upslope.sinks import feeding
from upslope.stages import Built
from upslope.train import Parts, train
from upslope.types import Group, Watch


@dataclass(frozen=True)
class Resumed:
    """What a checkpoint kept, beside the weights."""

    checkpoint: Checkpoint
    learner: Mapping[str, Any]


def train_recipe(
    recipe: Recipe,
    say: Say,
    *,
    argv: Sequence[str] = (),
    watches: Sequence[Watch] = (),
    on_collapse: str = "say",
) -> Run:
    """Train a recipe and return its finished run; the self-check first, unless it is off.

    ``on_collapse``: what an alarm of ``alarms.Collapse`` does, "say", "stop" or "rollback". Raises
    UserError for everything its user can mend.
    """
    act = checked(on_collapse, recipe.stages())
    session = Session(recipe, say, watches)
    check(session)
    with Run.create(recipe.runs, recipe.name, dump(session.recipe), recipe.seed, argv) as run:
        say(f"  run: {run.path}")
        finish(session, run, act)
    return run


def check(session: Session) -> None:
    """The self-check, said proof by proof, unless it is off."""
    if session.recipe.check.enabled:
        for proof in asyncio.run(prove(session)):
            session.say(f"  proven: {proof.claim} ({proof.seen})")


def finish(
    session: Session, run: Run, act: OnCollapse = "say", resumed: Resumed | None = None
) -> None:
    """Train to the end; on Ctrl-C say what is kept."""
    try:
        config = tomllib.loads(dump(session.recipe))
        with machine.settled(), feeding(session.recipe.sinks, run.path, config) as feeds:
            stages = [one.stage for one in session.stages]
            audits = [session.rewarding(one).audit for one in session.stages]
            own = (Worth(run, stages, session.say), Collapse(run, session.say, act))
            session.watches = (*session.watches, *feeds, *own, *audits)
            asyncio.run(train_stages(session, run, resumed))
    except KeyboardInterrupt:
        session.say(f"stopped: {len(run.metrics())} steps are kept in {run.path}; --resume goes on")
        raise
    finally:
        session.close()


async def train_stages(session: Session, run: Run, resumed: Resumed | None) -> Result:
    """Train every stage that is left, then write model, curve and result."""
    stages = [*resumed.checkpoint.done] if resumed else list[StageResult]()
    step = resumed.checkpoint.place.first if resumed else 0
    for one in session.stages[len(stages) :]:
        state = dict(one.algorithm.start())
        at = Place(step=step, first=step, spent=session.ledger.totals(), state=state)
        stages.append(await train_stage(session, run, one, at, stages, resumed))
        step, resumed = step + stages[-1].steps, None
    run.save_model(lambda folder: save(session.policy, folder))
    if session.policy.rank:
        run.save_adapter(lambda folder: save_adapter(session.policy, folder))
    run.save_curve(curve_svg(run.metrics(), run.evaluations(), run.name))
    totals = session.ledger.totals()
    result = Result(
        before=stages[-1].before,
        after=stages[-1].after,
        flops=totals.flops,
        seconds=totals.seconds,
        cpu_seconds=totals.cpu_seconds,
        peak_memory_bytes=session.peak_memory(),
        steps=step,
        stopped_by=stages[-1].stopped_by,
        stages=tuple(stages),
    )
    run.finish(result)
    return result


async def train_stage(
    session: Session,
    run: Run,
    one: Built,
    at: Place,
    done: Sequence[StageResult],
    resumed: Resumed | None,
) -> StageResult:
    """Train one stage, from its beginning or from where it was; what it changed and took."""
    at = resumed.checkpoint.place.fitting(one.algorithm.start()) if resumed else at
    assessment = session.assessment(one, run)
    parts = session.parts(one, assessment, at, done)
    selects, selected = one.stage.evaluation.select, None
    reward = session.rewarding(one)
    try:
        reward.audit.first = at.first
        if resumed:
            await restore(parts, resumed)
            reward.audit.load_state(resumed.checkpoint.audit)
        if selects and at.tested is None:
            await parts.synchronise(at.step, False)
            at = at.model_copy(update={"tested": await assessment.test(at.step)})
        earlier = [run.reward(stage.name) for stage in done]
        await reward.begin(run.reward(one.stage.name), earlier, resumed=resumed is not None)
        at = await train(parts, at)
        parts.learner.settle()
        before, after = at.before, at.after
        if selects:
            selected = assessment.choose()
            await parts.synchronise(at.step, False)
            before, after = at.tested, await assessment.test(at.step)
    finally:
        await parts.source.close()
        await reward.close()
    if at.stopped == "signal":
        session.say(
            f"stage {one.stage.name} ends: no group of rollout.tries={one.stage.rollout.tries} "
            "times as many as wanted had anything to teach"
        )
    assert before is not None, "a stage begins with an evaluation"
    assert after is not None
    spent = session.ledger.totals().since(at.spent)
    return StageResult(
        name=one.stage.name,
        before=before,
        after=after,
        steps=at.step - at.first,
        flops=spent.flops,
        seconds=spent.seconds,
        cpu_seconds=spent.cpu_seconds,
        stopped_by=at.stopped,
        selected=selected,
    )


async def restore(parts: Parts, resumed: Resumed) -> None:
    """Put a stage's parts back to where a checkpoint found them."""
    parts.ledger.load_state(resumed.checkpoint.ledger)
    parts.source.load_state(resumed.checkpoint.source)
    parts.learner.load_state(resumed.learner)
    await parts.synchronise(resumed.checkpoint.place.step, False)


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
    k = max(session.recipe.check.problems, len(one.weights))  # of several envs, one of each
    held_out = [p for problems in session.held_out(one).values() for p in problems]
    problems = [*one.problems("train")[:k], *held_out[:k]]
    proofs = await selfcheck.prove_env(one.env, problems, session.chat)
    name, train = type(one.env).__name__, session.trained_on(one)
    proofs.append(selfcheck.prove_held_out(name, train, held_out))
    learner = Learner(
        session.policy,
        one.stage.learner,
        lambda phase, flops, tokens: session.ledger.add("check", flops, tokens),
        reference=session.policy,
        algorithm=one.algorithm,
    )
    learner.teacher = session.teachers[one.stage.name]
    await session.sync.load(learner, 0, moved=False)
    proofs.append(Proof("the engine holds the learner's weights", session.sync.last))
    if one.stage.source.type == "recorded":
        source = session.source(one)
        groups: Sequence[Group] = await source.groups(2, 0, one.algorithm.keep)
        return proofs + selfcheck.prove_gradient(learner, Batch.of(groups), one.algorithm)
    player = session.trainee(one)
    size = min(one.stage.rollout.group, 2)
    few = problems[: max(2, len(one.weights))]  # of several envs, each with its costs
    plays = [player.group(p, 0, size, session.recipe.seed, "check") for p in few]
    groups = await asyncio.gather(*plays)
    for group in groups:
        selfcheck.prove_trained(group, session.chat)
        for t in (*group.trajectories, *group.greedy):
            used = t.usage
            session.ledger.add(
                "check", used.prefill_flops + used.decode_flops, used.computed + used.decoded
            )
    selfcheck.prove_graded(groups)
    selfcheck.prove_costs(groups, reported(one.algorithm))
    batch = Batch.of(groups, one.algorithm.start())
    # The learner against itself before it is measured against the engine.
    proofs += selfcheck.prove_gradient(learner, batch, one.algorithm)
    return [*proofs, selfcheck.prove_logprobs(learner, batch)]
