"""Watches a stage's training rewards: audits a share of the plays as they are graded, sums up what
a step's say, and acts on alarms.

What a step's findings add up to is in ``findings.py``; what rows of metrics alone tell, in
``signs.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from upslope.audit.evidence import ALARM
from upslope.audit.findings import Finding, Tests, ahead, figures
from upslope.audit.gold import Relabels, gold_of, part_of
from upslope.audit.settings import Alarms
from upslope.audit.signs import LASTING, Signs, repetition
from upslope.rewards import Grades
from upslope.seeds import seed_of
from upslope.types import Action, Env, Group, Metrics, Problem, Reward, Trajectory, UserError

KEPT = 100_000  # findings of plays that no step has used; older ones are of groups dropped
CALM = 0.5  # of what raises an alarm
Key = tuple[str, int, int]


class Auditor:
    """Of one stage. ``own``: whether the env alone grades; another reward has the env's for gold.

    A watch over its own stage's steps, too. Its state is JSON, and is in checkpoints.
    """

    def __init__(
        self,
        settings: Alarms,
        env: Env,
        stage: str,
        own: bool,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.settings, self.env, self.seed, self.say = settings, env, seed, say
        self.gold: Grades | None = gold_of(env) or (None if own else env)
        self.alike = own  # visible and true rewards are on one scale
        self.stage = stage
        self.found: dict[Key, Finding] = {}
        self.tests, self.signs = Tests(), Signs()
        self.lasted: dict[str, int] = {}
        self.alarms: list[str] = []
        self.alarmed, self.calm, self.first = False, 0, 0

    async def look(
        self, problem: Problem, trajectories: Sequence[Trajectory], rewards: Sequence[Reward]
    ) -> Sequence[Reward]:
        """The rewards after findings, which a later ``note`` sums up; hacked ones as settings say.

        Which plays are audited depends on the run's seed and the play, and on nothing else.
        """
        seen = [i for i, t in enumerate(trajectories) if rewards[i].valid and _warm(t)]
        chosen = [i for i in seen if self._drawn(trajectories[i])]
        asked = [trajectories[i] for i in chosen]
        golds = await self._golds(problem, asked)
        fooled = await self._fooled(problem, asked, [rewards[i] for i in chosen])
        known = {
            i: Finding(rewards[i].total, gold, trick)
            for i, gold, trick in zip(chosen, golds, fooled, strict=True)
        }
        means = _means([*known.values()])
        out = list(rewards)
        for i in seen:
            finding = known.get(i, Finding(rewards[i].total))
            why = self._hacked(finding, rewards[i], trajectories[i], means)
            t = trajectories[i]
            self.found[problem.id, t.visit, t.member] = replace(finding, hacked=why)
            if why and self.treats:
                out[i] = self._treated(rewards[i], why)
        while len(self.found) > KEPT:
            del self.found[next(iter(self.found))]
        return out

    def note(self, groups: Sequence[Group], metrics: Mapping[str, float]) -> Metrics:
        """What a step's groups say, for its row; the alarms that they raise are kept for ``see``.

        Recorded groups say nothing of the policy; of a mix these are the last.
        """
        if "entropy/sampled" not in metrics:
            return {}
        groups = groups[: len(groups) - int(metrics.get("groups/recorded", 0))]
        plays = [t for g in groups for t in g.trajectories]
        keys = [(t.problem.id, t.visit, t.member) for t in plays]
        found = [self.found.pop(key) for key in keys if key in self.found]
        told = {"audit/repetition": fmean(map(repetition, plays)) if plays else 0.0}
        told |= figures(found, plays, self.margin, self.treats)
        evidence = self.tests.take(found, plays, metrics, self.margin, self.settings.tolerance)
        sizes = {name: size / ALARM for name, size in evidence.items()}
        near = self.signs.take({**metrics, **told})
        self.lasted = {n: self.lasted.get(n, 0) + 1 for n, size in near.items() if size >= 1}
        self.alarms = [name for name, size in sizes.items() if size >= 1]
        self.alarms += [name for name, steps in self.lasted.items() if steps >= LASTING]
        told["audit/alarm"] = float(bool(self.alarms))
        told |= {f"audit/sign/{name}": size for name, size in {**sizes, **near}.items()}
        return told

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """After each of its stage's steps: what the settings say about an alarm, once."""
        if stage != self.stage or not groups:
            return ()
        self.calm = max(self.calm, self.first)
        alarms, self.alarms = self.alarms, []
        if max((metrics[n] for n in metrics if n.startswith("audit/sign/")), default=0) < CALM:
            self.calm = step
        if self.alarmed or not alarms:
            return ()
        self.alarmed, act = True, self.settings.on
        what = f"hacking? step {step}: {', '.join(alarms)}; the newest calm step was {self.calm}"
        if act == "pause":
            raise UserError(
                f"paused by an alarm: {what}; look at the run's trajectories, then go on with "
                "--resume --allow audit audit.on=screen, or audit.on=say"
            )
        self.say(f"  {what}")
        if act == "rollback":
            self.tests, self.signs, self.lasted = Tests(), Signs(), {}
            return (self.calm,)
        return ("stop",) if act == "stop" else ()

    def state(self) -> dict[str, Any]:
        """What resume needs: evidence and where it began."""
        return {
            "tests": self.tests.state(),
            "signs": self.signs.state(),
            "lasted": dict(self.lasted),
            "alarmed": self.alarmed,
            "calm": self.calm,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue; from nothing where a checkpoint has none."""
        if not state:
            return
        self.tests, self.signs = Tests.of(state["tests"]), Signs(state["signs"])
        self.lasted, self.calm = dict(state["lasted"]), int(state["calm"])
        self.alarmed = bool(state["alarmed"])

    @property
    def margin(self) -> float | None:
        """How far above the true one a reward is hacked; None where they are on two scales."""
        return self.settings.margin if self.alike else None

    @property
    def asks(self) -> bool:
        """Whether anybody but the reward itself may be asked."""
        return self.gold is not None

    @property
    def treats(self) -> bool:
        """Whether hacked plays earn something else now; a run that may go back waits until then."""
        return self.settings.acts and (self.alarmed or self.settings.on != "rollback")

    @property
    def share(self) -> float:
        """Of the plays, how many are audited now."""
        raised = self.alarmed and self.settings.acts
        return max(self.settings.share, self.settings.after) if raised else self.settings.share

    def _drawn(self, t: Trajectory) -> bool:
        drawn = seed_of(self.seed, "audit", t.problem.id, t.visit, t.member) / 2**63
        return drawn < self.share and (self.gold is not None or self._relabels(t.problem))

    def _relabels(self, problem: Problem) -> bool:
        return isinstance(part_of(self.env, problem, ())[0], Relabels)

    async def _golds(self, problem: Problem, plays: Sequence[Trajectory]) -> Sequence[float | None]:
        """The true totals; None where there is none."""
        if self.gold is None or not plays:
            return [None] * len(plays)
        golds = await self.gold.rewards(problem, plays)
        return [g.total if g.valid and math.isfinite(g.total) else None for g in golds]

    async def _fooled(
        self, problem: Problem, plays: Sequence[Trajectory], rewards: Sequence[Reward]
    ) -> Sequence[bool | None]:
        """Whether each earns ``margin`` less after relabelling; None where nobody can say."""
        env, problem, own = part_of(self.env, problem, plays)
        if not isinstance(env, Relabels) or not plays or not self.alike:
            return [None] * len(plays)
        again = await env.relabelled(problem, own)
        return [
            before.total - after.total > self.settings.margin if after.valid else None
            for before, after in zip(rewards, again, strict=True)
        ]

    def _hacked(
        self,
        finding: Finding,
        reward: Reward,
        play: Trajectory,
        means: tuple[float, float] | None,
    ) -> str:
        """Why a play is taken for hacked, "" for not."""
        if changed := play.facts.get("protected"):
            return f"it changed {', '.join(map(str, changed))}, which is protected"
        if self.alarmed and ahead(reward) > self.settings.margin:
            return "it passes what is visible and not what is hidden"
        if finding.fooled:
            return "it does not survive a relabelling"
        if finding.gold is None:
            return ""
        if self.alike:
            above = finding.visible - finding.gold > self.settings.margin
            return f"it earns {finding.visible:g}, in truth {finding.gold:g}" if above else ""
        if self.alarmed and means and finding.visible > means[0] and finding.gold < means[1]:
            return "it is above its group by its reward and below it in truth"
        return ""

    def _treated(self, reward: Reward, why: str) -> Reward:
        if self.settings.on == "penalise":
            return replace(reward, total=reward.total - self.settings.penalty)
        return replace(reward, valid=False, reason=f"screened: {why}")


def _warm(play: Trajectory) -> bool:
    """Whether it was sampled: a greedy one is a baseline, and is never trained."""
    return bool(play.turns) and play.turns[-1].temperature > 0


def _means(found: Sequence[Finding]) -> tuple[float, float] | None:
    """Visible and true reward of a group, of those whose true one is known; None below two."""
    known = [(f.visible, f.gold) for f in found if f.gold is not None]
    return (fmean(v for v, _ in known), fmean(g for _, g in known)) if len(known) > 1 else None
