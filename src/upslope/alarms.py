"""An alarm on collapse: variety that is lost without being paid for in reward.

A policy that learns says fewer different things, and earns more. One that collapses loses its
entropy, its different answers or the groups that differ faster than it closes the distance to the
best reward there is; or says one thing to every problem; or earns less than it did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from upslope.recipe import Stage
from upslope.runs import Run
from upslope.types import Action, Group, Metrics, UserError

OnCollapse = Literal["say", "stop", "rollback"]
VARIETY = {
    "entropy/sampled": "entropy",
    "answers/distinct_share": "different answers",
    "groups/mixed_share": "groups that differ",
}
WATCHED = (*VARIETY, "answers/common_share", "answers/gold_share", "reward/mean")
READ = (*WATCHED, "reward/invalid_share", "reward/max", "reward/min", "reward/std", "groups/used")
FIRST = 5  # steps that say where it began
FAST, SLOW = 0.5, 0.1  # weight of the newest step in the moving averages of values and of noise
LASTING = 2  # steps in a row that a sign must last
UNPAID = 0.6  # of a variety, lost beyond the share of the way to the best reward that was gone
COMMON = 0.3  # of the way from where it began to one answer for all
FALL = 0.3  # of the way from the highest mean reward to the lowest reward
NOISE = 5.0  # standard errors of the moving average that a fall must exceed
NEAR = 0.1  # of the rewards' range: from there to the best reward variety may go
ROLLS = 2  # roll-backs, after which the run stops
CALM = 0.5  # of what raises the alarm


class Signs:
    """How near each sign of collapse is, from rows of metrics in their order; 1 is an alarm."""

    def __init__(self) -> None:
        self.seen = 0
        self.first: dict[str, float] = {}
        self.now: dict[str, float] = {}
        self.best, self.least, self.peak = -math.inf, math.inf, -math.inf
        self.noise = 0.0

    def take(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Each sign by its name, after this row; a fall of the reward alone in the first few."""
        self.seen += 1
        for name in WATCHED:
            old = self.now.get(name, row[name])
            self.now[name] = old + FAST * (row[name] - old)
            if self.seen <= FIRST:
                begun = self.first.get(name, 0.0)
                self.first[name] = begun + (row[name] - begun) / self.seen
        self.best, self.least = (
            max(self.best, row["reward/max"]),
            min(self.least, row["reward/min"]),
        )
        # As if the members of a group were all alike: more than there can be.
        square = row["reward/std"] ** 2 / row["groups/used"]
        self.noise += max(SLOW, 1 / self.seen) * (square - self.noise)
        self.peak = max(self.peak, self.now["reward/mean"])
        fallen = {"reward": self._fall()}
        if self.seen <= FIRST:
            return fallen
        return {**self._variety(), "one answer for all": self._common(), **fallen}

    def _variety(self) -> dict[str, float]:
        reward, begun = self.now["reward/mean"], self.first["reward/mean"]
        if self.best - reward <= NEAR * (self.best - self.least):
            return {}
        won = max(0.0, (reward - begun) / (self.best - begun)) if self.best > begun else 0.0
        return {
            said: (1 - self.now[name] / self.first[name] - won) / UNPAID
            for name, said in VARIETY.items()
            if self.first[name] > 0
        }

    def _common(self) -> float:
        """Beyond what the problems' own answers have in common."""
        name = "answers/common_share"
        base = max(
            self.first[name], self.first["answers/gold_share"], self.now["answers/gold_share"]
        )
        return (self.now[name] - base) / (1 - base) / COMMON if base < 1 else 0.0

    def _fall(self) -> float:
        error = math.sqrt(self.noise * FAST / (2 - FAST))
        allowed = max(NOISE * error, FALL * (self.peak - self.least))
        return (self.peak - self.now["reward/mean"]) / allowed if allowed else 0.0


def tells(row: Mapping[str, Any]) -> bool:
    """Whether a row is of answers that the policy gave, and any of them was graded."""
    if not {*READ} <= row.keys() or row["reward/invalid_share"] == 1:
        return False
    return bool(row.get("groups/recorded", 0) < row["groups/used"])


class Collapse:
    """A watch over a run's stages, one after the other. ``act``: what an alarm does.

    Rows from before a resumption are read back from the run. "rollback" asks for the weights of
    the newest step that was calm, ``ROLLS`` times, and then to stop.
    """

    def __init__(self, run: Run, say: Callable[[str], None], act: OnCollapse = "say") -> None:
        self.run, self.say, self.act = run, say, act
        self.stage, self.signs = "", Signs()
        self.lasted: dict[str, int] = {}
        self.calm, self.rolls, self.raised = 0, 0, False

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """After each step of sampled groups: what to do about a sign that lasts."""
        if not groups or not tells(metrics):
            return ()
        if stage != self.stage:
            self._begin(stage, step)
        alarms = self._take(step, metrics)
        if not alarms or self.raised:
            return ()
        self.raised = True
        self.say(
            f"  collapse? step {step}: {', '.join(alarms)}; the newest calm step was {self.calm}"
        )
        if self.act == "say":
            return ()
        if self.act == "stop" or self.rolls >= ROLLS:
            return ("stop",)
        self.rolls += 1
        self.signs, self.lasted, self.raised = Signs(), {}, False
        return (self.calm,)

    def _begin(self, stage: str, step: int) -> None:
        self.stage, self.signs, self.lasted, self.raised = stage, Signs(), {}, False
        self.calm = step - 1
        before = 0
        for row in self.run.metrics():
            if row["stage"] == stage and row["step"] < step:
                if before and row["step"] > before + 1:  # a roll-back's version has no row
                    self.signs, self.lasted, self.rolls = Signs(), {}, self.rolls + 1
                before = row["step"]
                if tells(row):
                    self._take(before, row)
        if before and step > before + 1:
            self.signs, self.lasted, self.rolls = Signs(), {}, self.rolls + 1

    def _take(self, step: int, row: Mapping[str, Any]) -> list[str]:
        """The signs that have lasted."""
        near = self.signs.take(row)
        self.lasted = {
            name: self.lasted.get(name, 0) + 1 for name, size in near.items() if size >= 1
        }
        if max(near.values(), default=0.0) < CALM:
            self.calm, self.raised = step, False
        return [name for name, steps in self.lasted.items() if steps >= LASTING]


def checked(act: str, stages: Sequence[Stage]) -> OnCollapse:
    """What to do on a collapse; UserError where it is unknown or there is nothing to go back to."""
    known: tuple[OnCollapse, ...] = get_args(OnCollapse)
    for each in known:
        if each == act:
            bare = [
                s.name for s in stages if s.source.type != "recorded" and not s.checkpoint.every
            ]
            if act == "rollback" and bare:
                raise UserError(
                    f"--on-collapse rollback needs checkpoints to go back to, and stage {bare[0]} "
                    "has checkpoint.every=0: set it to some steps"
                )
            return each
    raise UserError(f"--on-collapse must be one of {', '.join(known)}, not {act}")
