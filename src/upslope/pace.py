"""How long a step takes here: each stage is tried for a few steps, with the loop that trains it.

Nothing of it is kept but the times. A stage that follows another is tried with the weights that
there are, on replies of the length that it will begin with.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from statistics import mean, median

from upslope.audit.settings import Alarms
from upslope.checkpoints import Place
from upslope.machine import settled
from upslope.recipe import dump
from upslope.rewards import Grades, Host
from upslope.runs import Run
from upslope.session import Session
from upslope.settings import Stop
from upslope.stages import Built
from upslope.train import Parts, train
from upslope.types import Action, Group, Metrics, Problem, Reward, Trajectory

WARM, STEPS = 1, 3  # steps that are not counted, and those that are
ALIKE = 4  # of so many groups one teaches nothing, as where stages begin that follow another
HELD_OUT = 64  # problems of an evaluation that is tried
# A step that takes longer at the machine's peak is tried with fewer problems. Scaled from half of
# them a quickstart's step was 8.2 s planned and 5 s seen: what all rows share was counted twice.
SECONDS = 30.0
PHASES = {"sampling": "decode", "updating": "update", "weights": "sync", "grading": "reward"}
FLOPS = ("prefill", "decode", "reward", "update")


@dataclass(frozen=True)
class Pace:
    """Seconds of a stage's step, by phase with what is left as "rest", and of an evaluation.

    Tried with ``problems``, and scaled; ``reply``: mean tokens of a reply; ``live``: the share of
    tokens that had anything to teach. ``flops``: of a step, as it was run.
    """

    problems: int
    seconds: Mapping[str, float]
    evaluation: float
    reply: float
    live: float
    flops: Mapping[str, float]

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Alternating:
    """A reward whose every other play earns something, but in one group of ``ALIKE``: a policy that
    knows nothing yet would have groups that teach nothing, and cost nothing."""

    of: Grades
    order: Iterator[int] = field(default_factory=count)

    def open(self, host: Host) -> Grades:
        """Itself."""
        return self

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """By place, after the stage's own grading, whose time counts."""
        graded = await self.of.rewards(problem, trajectories)
        differ = next(self.order) % ALIKE < ALIKE - 1
        return [replace(r, total=float(differ and i % 2), valid=True) for i, r in enumerate(graded)]


class Clock:
    """A watch: when each step ended, what it was and what the ledger said."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Metrics]] = []

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """After a step, or an evaluation, which has no groups."""
        if groups:
            self.seen.append((time.perf_counter(), metrics))
        return ()


def paces(session: Session, work: Sequence[float], speed: float) -> list[Pace]:
    """Every stage's, whose steps take ``work`` FLOPs on a machine of ``speed`` FLOP/s."""
    before: list[Built] = []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for one, flops in zip(session.stages, work, strict=True):
            parts = max(1, math.ceil(flops / speed / SECONDS))
            with Run.create(folder, one.stage.name, dump(session.recipe), 0, ()) as run:
                small = _small(session, one, before, parts)
                found.append(_scaled(session, asyncio.run(_tried(session, run, small)), one, small))
            before.append(one)
    return found


def _scaled(session: Session, pace: Pace, one: Built, small: Built) -> Pace:
    """From the problems it was tried with to all; loading weights takes what it takes."""
    more = one.stage.rollout.problems / small.stage.rollout.problems
    asked, tried = (max(map(len, session.held_out(b).values())) for b in (one, small))
    return replace(
        pace,
        seconds={k: s * (1 if k == "weights" else more) for k, s in pace.seconds.items()},
        evaluation=pace.evaluation * asked / tried,
        flops={phase: flops * more for phase, flops in pace.flops.items()},
    )


def _small(session: Session, one: Built, before: Sequence[Built], parts: int) -> Built:
    """The stage as it is tried: ``parts`` times fewer problems, few steps, and as much to say and
    to learn as it will begin with."""
    stage, reward, audit = one.stage, one.reward, one.audit
    updates = stage.learner.updates
    problems = max(updates, stage.rollout.problems // parts // updates * updates)
    rollout = stage.rollout.model_copy(update={"problems": problems})
    shown = next((b for b in reversed(before) if b.stage.source.type == "recorded"), None)
    if before and stage.source.type == "rollouts":
        reward, audit = Alternating(session.rewarding(one)), Alarms(share=0.0)  # audited within
        if shown is not None and not rollout.think_tokens:
            length = min(rollout.max_tokens, _shown(session, shown))
            rollout = rollout.model_copy(update={"max_tokens": length})
    update = {
        "rollout": rollout,
        "stop": Stop(steps=WARM + STEPS),
        "evaluation": stage.evaluation.model_copy(
            update={"problems": min(HELD_OUT, stage.evaluation.problems), "every": 0}
        ),
    }
    return replace(one, stage=stage.model_copy(update=update), reward=reward, audit=audit)


def _shown(session: Session, one: Built) -> int:
    """Tokens of a demonstrated reply, which is what comes after imitation."""
    groups = asyncio.run(_recorded(session, one))
    return round(mean(int(t.segments[0].trained.sum()) for g in groups for t in g.trajectories))


async def _recorded(session: Session, one: Built) -> Sequence[Group]:
    return await session.source(one).groups(HELD_OUT, 0, lambda group: True)


async def _tried(session: Session, run: Run, one: Built) -> Pace:
    """Train a stage for its few steps; its own pace, not scaled to the whole."""
    clock, watches = Clock(), session.watches
    session.watches = (clock,)
    version, state = session.sync.version, dict(one.algorithm.start())
    at = Place(step=version, first=version, spent=session.ledger.totals(), state=state)
    parts: Parts = session.parts(one, session.assessment(one, run), at, ())
    try:
        with settled():  # as a run is: a collection would be a third of a small policy's steps
            await train(replace(parts, checkpoint=lambda at: None), at)
    finally:
        session.watches = watches
        await parts.source.close()
    return _pace(one, clock, run)


def _pace(one: Built, clock: Clock, run: Run) -> Pace:
    """A phase's seconds are the middle step's: one that a machine held up should not count."""
    last = clock.seen[-1]
    steps = list(pairwise(clock.seen[WARM - 1 :])) or [(last, last)]

    def spent(kind: str, phase: str) -> list[float]:
        key = f"ledger/{kind}/{phase}"
        return [after.get(key, 0.0) - before.get(key, 0.0) for (_, before), (_, after) in steps]

    seconds = {name: median(spent("seconds", phase)) for name, phase in PHASES.items()}
    whole = median(ended - began for (began, _), (ended, _) in steps)
    seconds["rest"] = max(0.0, whole - sum(seconds.values()))
    key = "ledger/seconds/evaluation"
    earlier, later = (row[key] for row in run.evaluations()[-2:])
    return Pace(
        problems=one.stage.rollout.problems,
        seconds=seconds,
        evaluation=later - earlier,
        reply=mean(metrics["length/mean"] for _, metrics in clock.seen),
        live=mean(metrics["update/live_share"] for _, metrics in clock.seen),
        flops={phase: mean(spent("flops", phase)) for phase in FLOPS},
    )
