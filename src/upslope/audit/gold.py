"""True rewards kept apart: what an env may have beside what it trains on, and who asks for it.

Evaluations measure the true reward where there is one; training sees the visible one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from upslope.envs.mixture import Mixture
from upslope.rewards import Grades
from upslope.types import Env, Problem, Reward, Trajectory


@runtime_checkable
class Gold(Protocol):
    """An env that knows a true reward, which its own only stands for; on the same scale."""

    async def gold(self, problem: Problem, trajectories: Sequence[Trajectory]) -> Sequence[Reward]:
        """One true reward for each trajectory, in order, whichever trajectories these are."""


@runtime_checkable
class Relabels(Protocol):
    """An env that can put a problem in other words of the same meaning (arXiv:2604.15149)."""

    async def relabelled(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """What the same replies earn, by the visible reward, after problem and reply were renamed
        alike: a rule that was understood earns the same, a shortcut does not."""


@dataclass(frozen=True)
class Golden:
    """The true rewards of an env, or of several; its own where one of several has no other."""

    env: Env

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The true ones."""
        env, problem, plays = part_of(self.env, problem, trajectories)
        if isinstance(env, Gold):
            return await env.gold(problem, plays)
        return await env.rewards(problem, plays)


def gold_of(env: Env) -> Grades | None:
    """What knows an env's true rewards; None where its own are all that there are."""
    parts = env.envs.values() if isinstance(env, Mixture) else (env,)
    return Golden(env) if any(isinstance(part, Gold) for part in parts) else None


def part_of(
    env: Env, problem: Problem, trajectories: Sequence[Trajectory]
) -> tuple[Env, Problem, Sequence[Trajectory]]:
    """A problem's own env of several, and the problem and its plays as that env knows them."""
    return (
        env.part(problem, trajectories)
        if isinstance(env, Mixture)
        else (env, problem, trajectories)
    )
