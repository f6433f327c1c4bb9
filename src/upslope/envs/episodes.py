"""Episodes that several envs share; an env with a world of its own has its own episode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from upslope.types import NOTHING, Env, Episode, Message, Problem, Reply


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
