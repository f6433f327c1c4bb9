"""Several rewards as one: a weighted sum of named parts, some of which may be gates.

    total = sum of weight * part

A part with a ``gate`` is asked first. Where it earns less than that, its own weighted reward is all
that there is, and no other part is asked for that play.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.merged import merged, usage
from upslope.rewards.nested import all_asked, asked
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Part:
    """``reward``: a table with a ``type``. ``weight`` 0 only reports it, and no failure of its own
    counts. ``gate``: what it must earn for the others to be asked."""

    reward: Annotated[OpensReward, REWARDS]
    weight: float = 1.0
    gate: float | None = None


@dataclass(frozen=True)
class Mix:
    """``parts``: a table for each, by name; each is reported as ``reward/part/<name>``.

    Invalid where a part that counts is, with that part's name. Costs by one name are not added: the
    largest counts.
    """

    parts: Mapping[str, Part]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts names no reward to mix: write a table for each")
        for name, part in self.parts.items():
            if not math.isfinite(part.weight) or (part.gate is None and not any(self.weights)):
                raise ValueError(f"parts.{name}.weight must be a number, and one of them not 0")

    @property
    def weights(self) -> list[float]:
        return [part.weight for part in self.parts.values()]

    def open(self, host: Host) -> Grades:
        """All parts, opened."""
        return Mixed(self, {name: part.reward.open(host) for name, part in self.parts.items()})


@dataclass(frozen=True)
class Mixed:
    """A mix of opened parts."""

    settings: Mix
    asks: Mapping[str, Grades]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The gates' first, one after another; then the others' for whoever has passed."""
        parts = self.settings.parts
        gates = {name: p.gate for name, p in parts.items() if p.gate is not None}
        seen: list[dict[str, Reward]] = [{} for _ in trajectories]
        open_to = list(range(len(trajectories)))
        for name, gate in gates.items():
            few = [trajectories[i] for i in open_to]
            found = await asked(self.asks[name], problem, few)
            for i, reward in zip(open_to, found, strict=True):
                seen[i][name] = reward
            passed = [r.valid and r.total >= gate for r in found]
            open_to = [i for i, inside in zip(open_to, passed, strict=True) if inside]
        rest = {name: one for name, one in self.asks.items() if name not in gates}
        if rest and open_to:
            more = await all_asked(rest, problem, [trajectories[i] for i in open_to])
            for i, found_of in zip(open_to, more, strict=True):
                seen[i] |= found_of
        return [self.one(each, i in open_to) for i, each in enumerate(seen)]

    def one(self, seen: Mapping[str, Reward], passed: bool) -> Reward:
        """Of what was asked for a play: all that has a weight, or the gate that it ended at."""
        parts = self.settings.parts
        if passed:
            weights = {n: p.weight for n, p in parts.items() if p.weight or p.gate is not None}
            return merged({name: seen[name] for name in parts}, weights)
        *_, last = seen
        if not seen[last].valid:
            reason = f"{last}: {seen[last].reason}"
            return Reward(0.0, valid=False, reason=reason, usage=usage(seen))
        return merged(seen, {last: parts[last].weight})
