"""Whole plays that are not sampled: an env's own episodes, with the policy's replies given.

For demonstrations of dialogues, and to grade a known solution of several turns. How a dialogue
becomes tokens is in ``recite.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from upslope.demonstrations import Demonstration
from upslope.envs.episodes import AGAIN, DemonstratesPlays, SolvesInTurns
from upslope.types import Env, Message, Problem, Split, UserError


@dataclass(frozen=True)
class Dialogue:
    """A play in words. ``parts``: what was said from each rewriting of the past to the next, with
    the problem as it was put then; ``facts`` as the episode told them."""

    problem: Problem
    parts: tuple[tuple[Problem, tuple[Message, ...]], ...]
    messages: tuple[Message, ...]
    earned: tuple[float, ...]
    facts: Mapping[str, Any]


def replies_of(env: Env, problem: Problem) -> Sequence[str]:
    """The replies that solve a problem: the same at every turn where the env knows no others."""
    return env.solved(problem) if isinstance(env, SolvesInTurns) else repeated(problem.solution)


def repeated(text: str) -> Sequence[str]:
    """The same at every turn, of some."""
    return (text,) * AGAIN


async def performed(env: Env, problem: Problem, replies: Iterable[str]) -> Dialogue:
    """Play a problem with these replies, to the last of them or the play's end.

    ``earned``: of each turn, as the env's replies said.
    """
    first: tuple[Message, ...] = problem.messages or ({"role": "raw", "content": problem.prompt},)
    put, messages, said = problem, list(first), list[Message]()
    parts, earned = list[tuple[Problem, tuple[Message, ...]]](), list[float]()
    async with env.play(problem) as episode:
        for text in replies:
            spoken = {"role": "assistant", "content": text}
            messages.append(spoken)
            said.append(spoken)
            reply = await episode.reply(tuple(messages))
            earned.append(reply.reward if reply else 0.0)
            if reply is None:
                break
            messages = [*messages[: reply.keep], *reply.messages]
            said += reply.messages
            if reply.keep is not None:
                parts.append((put, _to_last_reply(said)))
                put, said = _put(problem, messages), []
        facts = dict(await episode.facts())
    if any(message["role"] == "assistant" for message in said):
        parts.append((put, _to_last_reply(said)))
    return Dialogue(problem, tuple(parts), tuple(messages), tuple(earned), facts)


def shown(env: DemonstratesPlays, split: Split) -> list[Demonstration]:
    """An env's plays as recorded ones: what was said after each rewriting of the past is one.

    UserError where the env ends a play before its replies are said.
    """
    assert isinstance(env, Env)

    async def every() -> list[Demonstration]:
        found = []
        for problem, replies in env.plays(split):
            dialogue = await performed(env, problem, replies)
            if len(dialogue.earned) < len(replies):
                raise UserError(
                    f"the demonstration of problem {problem.id!r} has {len(replies)} replies and "
                    f"its play ends after {len(dialogue.earned)}: leave out those that follow"
                )
            found += [recorded(*part) for part in dialogue.parts]
        return found

    with ThreadPoolExecutor(1) as thread:  # an event loop may be running in this one
        return thread.submit(asyncio.run, every()).result()


def recorded(problem: Problem, said: tuple[Message, ...]) -> Demonstration:
    """A part of a dialogue as a recorded play."""
    return Demonstration(problem, str(said[-1]["content"]), said=said if len(said) > 1 else ())


def _to_last_reply(said: Sequence[Message]) -> tuple[Message, ...]:
    """Without what was observed after the last reply, which nothing answers."""
    last = max(i for i, message in enumerate(said) if message["role"] == "assistant")
    return tuple(said[: last + 1])


def _put(problem: Problem, messages: Sequence[Message]) -> Problem:
    """The same problem, put by these messages."""
    if problem.prompt:
        return replace(problem, prompt="".join(str(m["content"]) for m in messages))
    return replace(problem, messages=tuple(messages))
