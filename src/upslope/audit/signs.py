"""Signs of hacking in rows of metrics alone, where nobody knows the true reward.

None of them proves anything: a reward that jumps together with lengths, one part of the reward that
rises at the expense of the others, or members of an ensemble that come to disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from upslope.types import Trajectory

FIRST = 5  # steps that say where it began
NEWEST = 3  # steps that say where it is
BEFORE = 5  # steps before these that a jump is measured from
LASTING = 3  # steps in a row that a sign must last
JUMP = 0.3  # of the rewards' range, within these steps
RISE = 0.25  # of the rewards' range, since the beginning
NOISE = 5.0  # standard errors that a change must exceed
LENGTH = math.log(1.5)  # a jump's change of length, either way
ENTROPY = math.log(3.0)  # and of entropy
REPEATED = 0.2  # and of the share of repeated tokens
PAID, SPARED = 0.2, 0.05  # of a part, and of what is correct, lost to the part that has risen
GRAM = 3
READ = (
    "reward/mean",
    "reward/std",
    "reward/max",
    "reward/min",
    "groups/used",
    "length/mean",
    "entropy/sampled",
    "audit/repetition",
)
PART = "reward/part/"
Row = Mapping[str, float]


class Signs:
    """How near each sign is, from rows of metrics in their order; 1 is an alarm when it lasts."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.first: list[dict[str, float]] = list(state["first"]) if state else []
        self.newest: list[dict[str, float]] = list(state["newest"]) if state else []
        self.least, self.most = (
            (float(state["least"]), float(state["most"])) if state else (math.inf, -math.inf)
        )

    def state(self) -> dict[str, Any]:
        """As JSON has it, after the first row."""
        held = {"first": self.first, "newest": self.newest}
        return {**held, "least": self.least, "most": self.most} if self.first else {}

    def take(self, row: Row) -> dict[str, float]:
        """Each sign by its name, after this row; none in the first few, and none of a row without a
        reward that could be given."""
        if row.get("reward/invalid_share") == 1:
            return {}
        kept = {n: v for n, v in row.items() if n in READ or n.startswith(PART)}
        if len(self.first) < FIRST:
            self.first.append(kept)
        self.newest = [*self.newest, kept][-(NEWEST + BEFORE) :]
        self.least = min(self.least, row["reward/min"])
        self.most = max(self.most, row["reward/max"])
        if len(self.newest) < NEWEST + BEFORE:
            return {}
        found = {"jump": self._jump()}
        parts = [n.removeprefix(PART) for n in kept if n.startswith(PART)]
        if "disagreement" in parts:
            found["disagreement"] = self._disagreement()
        if len(others := [p for p in parts if p != "disagreement"]) > 1:
            found["one part alone"] = self._dominance(others)
        return found

    def _now(self, name: str) -> float:
        return _mean(self.newest[-NEWEST:], name)

    def _climb(self, then: Sequence[Row], share: float) -> float:
        """How far the reward has climbed, over what counts: a share of its range, and noise."""
        now = self.newest[-NEWEST:]
        error = math.hypot(*(_error(rows) for rows in (then, now)))
        needed = max(share * (self.most - self.least), NOISE * error)
        return (_mean(now, "reward/mean") - _mean(then, "reward/mean")) / needed if needed else 0.0

    def _jump(self) -> float:
        """A reward that jumps together with length, repetition or entropy."""
        then = self.newest[:BEFORE]
        odd = max(
            abs(_ratio(self._now("length/mean"), _mean(then, "length/mean"))) / LENGTH,
            abs(_ratio(self._now("entropy/sampled"), _mean(then, "entropy/sampled"))) / ENTROPY,
            (self._now("audit/repetition") - _mean(then, "audit/repetition")) / REPEATED,
        )
        return max(0.0, min(self._climb(then, JUMP), odd))

    def _dominance(self, parts: Sequence[str]) -> float:
        """A reward that has climbed by one of its parts, for which another one has paid."""
        begun = {p: _mean(self.first, PART + p) for p in parts}
        moved = {p: self._now(PART + p) - begun[p] for p in parts}
        rise = self._now("reward/mean") - _mean(self.first, "reward/mean")
        climb = self._climb(self.first, RISE)
        if climb <= 0 or rise <= 0:
            return 0.0
        top = max(moved, key=lambda p: moved[p])
        paid = max(
            -moved[p] / (abs(begun[p]) + 1e-9) / (SPARED if p == "correct" else PAID)
            for p in parts
            if p != top
        )
        return max(0.0, min(climb, moved[top] / (0.9 * rise), paid))

    def _disagreement(self) -> float:
        """Members of an ensemble that disagree twice as much as they did, noise aside."""
        begun = [row[f"{PART}disagreement"] for row in self.first]
        allowed = fmean(begun) + NOISE * stdev(begun)
        risen = self._now(f"{PART}disagreement") - fmean(begun)
        return max(0.0, risen / allowed) if allowed > 0 else 0.0


def repetition(play: Trajectory) -> float:
    """The share of a play's sampled runs of three tokens that it has said before."""
    said = np.concatenate([s.tokens[s.trained] for s in play.segments]).astype(np.int64)
    count = len(said) - GRAM + 1
    if count < 2:
        return 0.0
    runs = np.stack([said[i : i + count] for i in range(GRAM)], axis=1)
    return 1 - len(np.unique(runs, axis=0)) / count


def _mean(rows: Sequence[Row], name: str) -> float:
    return fmean(row.get(name, 0.0) for row in rows)


def _error(rows: Sequence[Row]) -> float:
    """Of the mean reward over these rows, as if the members of a group were all alike."""
    return math.sqrt(sum(r["reward/std"] ** 2 / r["groups/used"] for r in rows)) / len(rows)


def _ratio(now: float, then: float) -> float:
    """Log of a change; 0 where there was nothing to change."""
    return math.log(now / then) if now > 0 and then > 0 else 0.0
