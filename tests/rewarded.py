"""A host, plays and plain graders for tests of rewards that are made of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from plays import Digits, asked, chatml
from upslope.recite import spoken
from upslope.rewards import Grades, Host
from upslope.types import Group, Problem, Reward, Trajectory

CHAT = chatml()


@dataclass
class Told:
    """What a reward did to its host: FLOPs and tokens of each pass, and lines."""

    spent: list[tuple[float, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def hosted(
    told: Told | None = None, env: Any = None, engine: Any = None, replies: Sequence[str] = ()
) -> Host:
    """``replies`` are what the policy of the stage's start says to whatever it is asked."""
    told = told or Told()

    async def play(problem: Problem, size: int) -> Group:
        return Group(problem, tuple(plays(*replies[:size], problem=problem)))

    policy: Any = SimpleNamespace(tokenizer=CHAT.tokenizer, context=4096)
    return Host(
        env=env or Digits(),
        policy=policy,
        chat=CHAT,
        engine=engine,
        seed=5,
        spend=lambda flops, tokens: told.spent.append((flops, tokens)),
        say=told.lines.append,
        play=play,
    )


def plays(*replies: str, problem: Problem | None = None, visit: int = 0) -> list[Trajectory]:
    """A group of one-turn plays."""
    problem = problem or asked()
    said = [spoken(CHAT, problem, reply, visit) for reply in replies]
    return [replace(t, member=i) for i, t in enumerate(said)]


@dataclass(frozen=True)
class Numbers:
    """A reply that is a number earns ``times`` that; any other one cannot be graded.

    ``calls``: the replies of each group that it was asked for.
    """

    times: float = 1.0
    cost: str = ""
    seconds: float = 0.0
    answers: bool = False
    calls: list[list[str]] = field(default_factory=list)

    def open(self, host: Host) -> Grades:
        return self

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        self.calls.append([t.text for t in trajectories])
        await asyncio.sleep(self.seconds)
        return [self.one(t) for t in trajectories]

    def one(self, t: Trajectory) -> Reward:
        try:
            value = float(t.text)
        except ValueError:
            return Reward(0.0, valid=False, reason=f"{t.text!r} is no number")
        costs = {self.cost: abs(value)} if self.cost else {}
        at = ((0, len(t.segments[0].tokens) - 1, self.times * value),)
        answer = t.text if self.answers else ""
        return Reward(self.times * value, {"own": 1.0}, costs, at=at, answer=answer)


@dataclass(frozen=True)
class Given:
    """Grades by a function of the reply."""

    of: Callable[[str], Reward]

    def open(self, host: Host) -> Grades:
        return self

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [self.of(t.text) for t in trajectories]


def graded(
    settings: Any, *replies: str, host: Host | None = None, problem: Problem | None = None
) -> list[Reward]:
    """What an opened reward gives a group of these replies."""
    grades = settings.open(host or hosted())
    return again(grades, *replies, problem=problem)


def again(grades: Grades, *replies: str, problem: Problem | None = None) -> list[Reward]:
    """What one that is open gives."""
    problem = problem or asked()
    return list(asyncio.run(grades.rewards(problem, plays(*replies, problem=problem))))  # type: ignore[arg-type]


def totals(rewards: Sequence[Reward]) -> list[float]:
    return [round(r.total, 9) for r in rewards]
