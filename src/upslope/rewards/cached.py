"""A reward that is asked once for each reply to a problem, for graders that are dear.

Kept in memory, for one stage and one table of settings. What could not be graded is asked again,
and so is a process reward, whose places are those of one play's tokens. A grader that draws, as a
judge at a temperature does, is then asked for one draw.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated
from uuid import uuid4

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.merged import noted
from upslope.rewards.nested import asked, refuse_comparing
from upslope.rewards.own import Own
from upslope.types import Problem, Reward, Trajectory, Usage


@dataclass(frozen=True)
class Cached:
    """``of``: the reward, a table with a ``type``. ``size``: how many are kept, of which the one
    that was not needed for longest goes first. Part: ``cached``, 1 for one that was not asked."""

    of: Annotated[OpensReward, REWARDS] = Own()
    size: int = 100_000

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    def open(self, host: Host) -> Grades:
        """With nothing kept; UserError around what compares replies."""
        of = self.of.open(host)
        refuse_comparing(of, "cached.of")
        return Keeps({"of": of}, self.size)


@dataclass(frozen=True)
class Keeps:
    """An opened reward, and what it has said."""

    asks: Mapping[str, Grades]
    size: int
    kept: OrderedDict[str, Reward] = field(default_factory=OrderedDict)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """What is known, and the reward's own for each other reply, once."""
        keys = [key_of(problem, t) for t in trajectories]
        known = {key: self.kept[key] for key in keys if key in self.kept}
        fresh: dict[str, Trajectory] = {}
        for key, trajectory in zip(keys, trajectories, strict=True):
            if key not in known:
                fresh.setdefault(key, trajectory)
        found = await asked(self.asks["of"], problem, list(fresh.values()))
        said = dict(zip(fresh, found, strict=True))
        placed = {key for key, reward in said.items() if reward.at}
        self.keep({k: r for k, r in (known | said).items() if r.valid and k not in placed})
        out = [
            noted(said[key], {"cached": 0.0})
            if said.get(key) is not None and fresh[key] is trajectory
            else noted(replace((known | said)[key], usage=Usage()), {"cached": 1.0})
            for key, trajectory in zip(keys, trajectories, strict=True)
        ]
        again = [i for i, key in enumerate(keys) if key in placed and out[i].parts["cached"]]
        more = await asked(self.asks["of"], problem, [trajectories[i] for i in again])
        for i, reward in zip(again, more, strict=True):
            out[i] = noted(reward, {"cached": 0.0})
        return out

    def keep(self, said: Mapping[str, Reward]) -> None:
        """As the ones needed last, within the size."""
        for key, reward in said.items():
            self.kept[key] = reward
            self.kept.move_to_end(key)
        while len(self.kept) > self.size:
            self.kept.popitem(last=False)


def key_of(problem: Problem, trajectory: Trajectory) -> str:
    """What a grader may see of a play: its problem, its dialogue, and how its env was left."""
    seen = [problem.id, problem.env, trajectory.messages, sorted(trajectory.facts.items())]
    return json.dumps(seen, default=lambda other: uuid4().hex)  # what has no text is never the same
