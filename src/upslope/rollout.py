"""Play one problem, or a group of one problem, through an engine and an env."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from upslope.chat import Chat
from upslope.grading import SECONDS, grade
from upslope.seeds import seed_of
from upslope.types import (
    Completion,
    Engine,
    Env,
    Episode,
    Group,
    Message,
    Problem,
    Sampling,
    Segment,
    Trajectory,
    Turn,
    Usage,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Player:
    """What a play needs besides its problem. ``grading`` bounds a group's grading, in seconds."""

    engine: Engine
    env: Env
    chat: Chat
    max_tokens: int
    temperature: float
    max_turns: int = 8
    grading: float = SECONDS

    async def group(self, problem: Problem, visit: int, size: int, seed: int, phase: str) -> Group:
        """Play a problem ``size`` times and grade the plays together.

        Draws depend on (seed, phase, problem, visit, member, turn) and nothing else.
        """
        prompt = self.chat.encode(self.chat.messages(problem))
        trajectories = await together(
            [self._play(problem, prompt, (visit, m), (seed, phase)) for m in range(size)]
        )
        rewards = await grade(self.env, problem, trajectories, self.grading)
        return Group(
            problem,
            tuple(replace(t, reward=r) for t, r in zip(trajectories, rewards, strict=True)),
        )

    async def _play(
        self,
        problem: Problem,
        prompt: Sequence[int],
        place: tuple[int, int],
        seeds: tuple[int, str],
    ) -> Trajectory:
        (visit, member), (run, phase) = place, seeds
        messages, rows, usage = list(self.chat.messages(problem)), Rows(prompt), Usage()
        async with self.env.play(problem) as episode:
            for turn in range(self.max_turns):
                seed = seed_of(run, phase, problem.id, visit, member, turn)
                sampling = Sampling(self.max_tokens, self.temperature, problem.stop, seed)
                completion = await self.engine.sample(rows.tokens, sampling)
                usage += completion.usage
                messages.append(self.chat.parse(completion.tokens.tolist(), problem.stop))
                rows.sampled(completion, self.temperature)
                if completion.stop != "stop" or not await self._replied(episode, messages, rows):
                    break
            else:  # the env had more to say than turns were left
                rows.turns[-1] = replace(rows.turns[-1], stop_reason="turns")
            facts = dict(await episode.facts())
        return Trajectory(
            problem,
            visit,
            member,
            tuple(rows.closed()),
            tuple(rows.turns),
            tuple(messages),
            facts=facts,
            usage=usage,
        )

    async def _replied(self, episode: Episode, messages: list[Message], rows: Rows) -> bool:
        """Append the env's reply, if there is one, in this segment or a new one."""
        reply = await episode.reply(tuple(messages))
        if reply is None:
            return False
        rows.turns[-1] = replace(rows.turns[-1], reward=reply.reward, state=reply.state)
        if reply.keep is not None:
            del messages[reply.keep :]
        messages += reply.messages
        longer = None if reply.keep is not None else self.chat.extend(rows.tokens, messages)
        rows.extended(longer, lambda: self.chat.encode(messages))
        return True


async def together(plays: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them; where one fails the others are ended before its error is raised."""
    tasks = [asyncio.ensure_future(play) for play in plays]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Rows:
    """The segments of a trajectory as they grow; columns always have equal lengths."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.segments: list[Segment] = []
        self.turns: list[Turn] = []
        self._open(prompt)

    def _open(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)
        self.trained = [False] * len(prompt)
        self.logprobs = [0.0] * len(prompt)
        self.versions = [-1] * len(prompt)

    def sampled(self, completion: Completion, temperature: float) -> None:
        """Add a turn's tokens, exactly as the engine sampled them."""
        start = len(self.tokens)
        self.tokens += completion.tokens.tolist()
        self.trained += [True] * len(completion.tokens)
        self.logprobs += completion.logprobs.tolist()
        self.versions += completion.versions.tolist()
        stop = len(self.tokens)
        self.turns.append(Turn(len(self.segments), start, stop, completion.stop, temperature))

    def extended(self, longer: list[int] | None, rewritten: Callable[[], list[int]]) -> None:
        """Add an env's tokens; where the past was rewritten, open another segment."""
        if longer is None:
            self.segments.append(self._segment())
            self._open(rewritten())
            return
        added = len(longer) - len(self.tokens)
        self.tokens = longer
        self.trained += [False] * added
        self.logprobs += [0.0] * added
        self.versions += [-1] * added

    def closed(self) -> list[Segment]:
        """All segments, the open one last."""
        return [*self.segments, self._segment()]

    def _segment(self) -> Segment:
        return Segment(
            np.array(self.tokens, dtype=np.int32),
            np.array(self.trained, dtype=np.bool_),
            np.array(self.logprobs, dtype=np.float32),
            np.array(self.versions, dtype=np.int32),
        )
