"""Episodes that several envs share, and what an env of several turns may know of its own.

An env with a world of its own has its own episode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, runtime_checkable

from upslope.types import NOTHING, Env, Episode, Message, Problem, Reply, Split

AGAIN = 4  # turns in which the same is said, where that is all there is to say


class OneAnswer:
    """The play that the policy's first reply ends."""

    async def reply(self, messages: Sequence[Message]) -> Reply | None:
        """Nothing: the play is over."""
        return None

    async def facts(self) -> Mapping[str, Any]:
        """Nothing but the reply is graded."""
        return NOTHING


@asynccontextmanager
async def single_turn(env: Env, problem: Problem) -> AsyncIterator[Episode]:
    """Write ``play = single_turn`` in an env whose problems take one answer."""
    yield OneAnswer()


def answers_once(env: Env) -> bool:
    """Whether an env's plays are ``single_turn``, so that a group of them is one request."""
    return vars(type(env)).get("play") is single_turn


@runtime_checkable
class DemonstratesPlays(Protocol):
    """An env that writes the policy's side of whole plays, right or wrong, to learn from."""

    def plays(self, split: Split) -> Iterator[tuple[Problem, Sequence[str]]]:
        """Pairs of a problem and replies, one for each turn, in a fixed order."""


@runtime_checkable
class SolvesInTurns(Protocol):
    """An env that knows the replies of a play that earns the full reward."""

    def solved(self, problem: Problem) -> Sequence[str]:
        """One reply for each turn; for problems with a ``solution``."""
