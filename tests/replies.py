"""Replies to a problem, graded by its env as one group."""

from __future__ import annotations

import asyncio

from upslope.types import Env, Problem, Reward, Trajectory


def rewards_of(env: Env, problem: Problem, *replies: str) -> list[Reward]:
    """A reward for each reply."""
    group = [
        Trajectory(problem, 0, i, (), (), ({"role": "assistant", "content": reply},))
        for i, reply in enumerate(replies)
    ]
    return list(asyncio.run(env.rewards(problem, group)))


def marks(env: Env, problem: Problem, *replies: str) -> list[tuple[float, float]]:
    """(correct, format) of each reply, all of them valid; the total is the first."""
    rewards = rewards_of(env, problem, *replies)
    assert all(r.valid and r.total == r.correct for r in rewards)
    return [(r.correct, r.parts["format"]) for r in rewards]
