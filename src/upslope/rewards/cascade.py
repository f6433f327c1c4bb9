"""Rewards in order, each asked only for what those before it leave undecided: a verifier, then a
small model, then a judge. Most of what the last would say costs what the first does.

A level has decided a group whose rewards are ``apart``, and in it each play whose reward is not
``unsure``. A group that is not told apart goes on whole, with all that it earns from the next level
alone; a play that is unsure goes on by itself, so levels of one group need one scale. What a level
could not grade goes on, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.merged import noted
from upslope.rewards.nested import asked
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Level:
    """``reward``: a table with a ``type``. ``apart``: how far a group's highest and lowest rewards
    must lie apart for it to be decided. ``unsure``: two numbers, between which a play goes on."""

    reward: Annotated[OpensReward, REWARDS]
    apart: float = 0.0
    unsure: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cascade:
    """``levels``: a table for each, by name, in the order in which they are asked.

    Parts: ``reached_<name>``, 1 for a play that was asked for there: its mean is the level's share.
    The last level decides what reaches it.
    """

    levels: Mapping[str, Level]

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise ValueError("levels must be at least two: the last is for what others leave open")
        *before, last = self.levels
        for name in before:
            level = self.levels[name]
            low, high = level.unsure or (0.0, 0.0)
            if low > high:
                raise ValueError(f"levels.{name}.unsure must have its lower number first")
            if level.apart <= 0 and not level.unsure:
                raise ValueError(
                    f"levels.{name} leaves nothing to {last}: give it apart or unsure, or leave "
                    "the levels after it out"
                )

    def open(self, host: Host) -> Grades:
        """All levels, opened."""
        return Falls(self, {name: level.reward.open(host) for name, level in self.levels.items()})


@dataclass(frozen=True)
class Falls:
    """Opened levels."""

    settings: Cascade
    asks: Mapping[str, Grades]

    @property
    def compares(self) -> bool:
        """Whether how far a group is apart has a say."""
        return any(level.apart > 0 for level in self.settings.levels.values())

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Each play's from the level that decided it."""
        found: list[Reward] = [Reward(0.0)] * len(trajectories)
        reached: list[set[str]] = [set() for _ in trajectories]
        going = list(range(len(trajectories)))
        for name, level in self.settings.levels.items():
            few = [trajectories[i] for i in going]
            rewards = await asked(self.asks[name], problem, few)
            for i, reward in zip(going, rewards, strict=True):
                found[i] = replace(reward, usage=found[i].usage + reward.usage)
                reached[i].add(name)
            going = [going[i] for i in undecided(level, rewards)]
            if not going:
                break
        names = list(self.settings.levels)
        return [
            noted(reward, {f"reached_{name}": float(name in seen) for name in names})
            for reward, seen in zip(found, reached, strict=True)
        ]


def undecided(level: Level, rewards: Sequence[Reward]) -> list[int]:
    """Places of the rewards that a level leaves to the next one."""
    totals = [r.total for r in rewards if r.valid]
    if not totals or max(totals) - min(totals) < level.apart:
        return list(range(len(rewards)))
    low, high = level.unsure or (0.0, 0.0)
    return [i for i, r in enumerate(rewards) if not r.valid or low < r.total < high]
