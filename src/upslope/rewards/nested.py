"""Rewards inside of rewards: who asks whom, asking several at once, and what each has declared.

Not a reward itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from upslope.grading import grade
from upslope.rewards import Compares, Declares, Grades, Nests
from upslope.types import Problem, Reward, Trajectory, UserError

T = TypeVar("T")
SIGN_OF_LIFE = 5.0


def within(grades: Grades, name: str = "") -> Iterator[tuple[str, Grades]]:
    """A reward and all that it asks, by the path of their names; what is asked comes first."""
    if isinstance(grades, Nests):
        for own, one in grades.asks.items():
            yield from within(one, f"{name}/{own}" if name else own)
    yield name, grades


def refuse_comparing(grades: Grades, key: str) -> None:
    """UserError where what a reply earns depends on others: it cannot be taken from another group.

    ``key``: whose setting asks for it.
    """
    for name, one in within(grades):
        if isinstance(one, Compares) and one.compares:
            raise UserError(
                f"{key}{f'.{name}' if name else ''} ({type(one).__name__}) gives a reply more or "
                "less for what others have said, so that no reply's reward can be used again: put "
                f"{key.split('.')[0]} inside of it, around what grades each reply alone"
            )


async def asked(
    grades: Grades, problem: Problem, trajectories: Sequence[Trajectory]
) -> Sequence[Reward]:
    """A reward's own, in bounded time and checked, one for each; none where nobody is asked for."""
    if not trajectories:
        return ()
    return ranged(grades, await grade(grades, problem, trajectories))


async def all_asked(
    named: Mapping[str, Grades], problem: Problem, trajectories: Sequence[Trajectory]
) -> list[dict[str, Reward]]:
    """For each trajectory the rewards by name; all are asked at once."""
    found = await together([asked(one, problem, trajectories) for one in named.values()])
    return [dict(zip(named, each, strict=True)) for each in zip(*found, strict=True)]


def ranged(grades: Grades, rewards: Sequence[Reward]) -> Sequence[Reward]:
    """Those beyond what the reward has declared are invalid, with the reason."""
    if not isinstance(grades, Declares):
        return rewards
    low, high = grades.earns
    return [r if not r.valid or low <= r.total <= high else _beyond(grades, r) for r in rewards]


def _beyond(grades: Declares, reward: Reward) -> Reward:
    low, high = grades.earns
    what = f"{type(grades).__name__} gave {reward.total:g}, outside its range of {low:g} to"
    return replace(reward, total=0.0, valid=False, reason=f"{what} {high:g}")


async def together(works: Sequence[Awaitable[T]]) -> list[T]:
    """All of them at once, in order; where one fails the others are ended before it is raised.

    Each bounds its own time, so whoever bounds this call sees that it still moves.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        left = set(tasks)
        while left and not any(t.done() and t.exception() for t in tasks):
            _, left = await asyncio.wait(
                left, timeout=SIGN_OF_LIFE, return_when=asyncio.FIRST_EXCEPTION
            )
        failed = next((t for t in tasks if t.done() and t.exception()), None)
        return [t.result() for t in ([failed] if failed else tasks)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
