"""Grades a group, by its env or another reward, in bounded time, and checks what came back."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import Awaitable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from upslope.rewards import Grades
from upslope.types import Problem, Reward, Trajectory, UserError

SECONDS = 60.0
PATIENCE = 30  # times as long, for a grader that moves


@runtime_checkable
class OnBehalf(Protocol):
    """What grades on behalf of another, whose name faults bear."""

    @property
    def grades(self) -> Grades:
        """That other."""


async def grade(
    env: Grades, problem: Problem, trajectories: Sequence[Trajectory], seconds: float = SECONDS
) -> Sequence[Reward]:
    """One checked reward for each trajectory.

    UserError where the grader raises, does not move for ``seconds``, or returns what is no reward.
    To move is to be resumed after waiting: a grader whose workers are busy with other groups'
    answers says so from time to time, and is not taken to hang.
    """
    name = f"{type(env.grades if isinstance(env, OnBehalf) else env).__name__}.rewards"
    try:
        async with asyncio.timeout(PATIENCE * seconds), asyncio.timeout(seconds) as still:
            with blaming(name, problem):
                rewards = await Interruptible(env.rewards(problem, trajectories), seconds, still)
    except (TimeoutError, Overtime) as error:
        raise UserError(
            f"{name} took more than {seconds:g} s on problem {problem.id!r}: "
            "bound the grader's time and mark what it cannot grade as invalid"
        ) from error
    check(name, problem, trajectories, rewards)
    return rewards


@contextmanager
def blaming(name: str, problem: Problem) -> Iterator[None]:
    """Turn what an env's part raises into a UserError that names both, unless it is one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} raised {type(error).__name__} on problem {problem.id!r}: {error}"
        ) from error


def check(
    name: str, problem: Problem, trajectories: Sequence[Trajectory], rewards: Sequence[Reward]
) -> None:
    """UserError where what a grader gave is not one finite reward for each trajectory."""
    given = list(rewards) if isinstance(rewards, Sequence) else [rewards]
    if not all(isinstance(reward, Reward) for reward in given):
        raise UserError(
            f"{name} returned something other than a list of Reward on problem {problem.id!r}"
        )
    if len(given) != len(trajectories):
        raise UserError(
            f"{name} returned {len(given)} rewards for {len(trajectories)} "
            f"trajectories of problem {problem.id!r}: return one for each, in order"
        )
    for reward in given:
        numbers = (reward.total, *reward.parts.values(), *reward.costs.values())
        if reward.valid and not all(math.isfinite(number) for number in numbers):
            raise UserError(
                f"{name} gave a reward that is not finite on problem {problem.id!r}: "
                "return Reward(0.0, valid=False, reason=...) where grading failed"
            )


class Overtime(BaseException):
    """Raised inside a grader that computes too long; not an Exception, which it might catch."""


class Interruptible:
    """Awaits ``work``, and breaks into it where it computes for ``seconds`` without awaiting.

    A timeout of asyncio alone never sees a grader that blocks the event loop. ``still`` is the
    timeout that begins anew whenever ``work`` moves.
    """

    def __init__(
        self, work: Awaitable[Sequence[Reward]], seconds: float, still: asyncio.Timeout
    ) -> None:
        self.work, self.seconds, self.still = work, seconds, still

    def __await__(self) -> Generator[Any, Any, Sequence[Reward]]:
        steps = self.work.__await__()
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                with _alarm(self.seconds):
                    wanted = steps.throw(cancelled) if cancelled else next(steps)
            except StopIteration as end:
                rewards: Sequence[Reward] = end.value
                return rewards
            cancelled = None
            try:
                yield wanted
                if not self.still.expired():
                    self.still.reschedule(asyncio.get_running_loop().time() + self.seconds)
            except asyncio.CancelledError as error:
                cancelled = error


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise Overtime in the block after so long; signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise Overtime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
