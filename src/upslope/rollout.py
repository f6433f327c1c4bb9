"""Play one problem, or a group of one problem, through an engine and an env."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from upslope.chat import Chat
from upslope.envs.episodes import OneAnswer, answers_once
from upslope.grading import SECONDS, blaming, grade
from upslope.rewards import Grades
from upslope.seeds import seed_of
from upslope.segments import Rows, answered
from upslope.serve.recording import AsksItself, Recording, Seat
from upslope.settings import Rollout
from upslope.types import (
    Completion,
    Engine,
    Env,
    Group,
    Message,
    Problem,
    Reply,
    Sampling,
    StopReason,
    Trajectory,
    Turn,
    Usage,
    UserError,
)

T = TypeVar("T")


@runtime_checkable
class SamplesGroups(Protocol):
    """An engine that takes all requests for one prompt in one call, which costs less than many."""

    async def sample_group(
        self, tokens: Sequence[int], asked: Sequence[Sampling]
    ) -> Sequence[Completion]:
        """What as many calls of ``sample`` give, in order."""


@dataclass(frozen=True)
class Thinking:
    """When a reply is interrupted, and the ``words`` that do it (ScaleRL, arXiv:2510.13786).

    After ``tokens``, or up to ``window`` more, at random, so that no length is learned by heart.
    """

    tokens: int
    window: int
    words: str

    @classmethod
    def of(cls, settings: Rollout) -> Thinking | None:
        """As the settings say; None where they interrupt nothing."""
        if not settings.think_tokens:
            return None
        return cls(settings.think_tokens, settings.think_window, settings.interrupt)

    def budget(self, seed: int) -> int:
        """Tokens before the interruption."""
        return self.tokens + seed % (self.window + 1)

    def ended(self, text: str) -> bool:
        """Whether a reply has ended its thinking itself, with the last of the words."""
        return self.words.split()[-1] in text


@dataclass(frozen=True)
class Player:
    """What a play needs besides its problem. ``grading`` bounds a group's grading, in seconds.

    ``max_tokens`` bounds a turn, or, with ``thinking``, what follows an interruption. ``context``
    is what a row may have; a play without room for another turn ends. 0 is no bound. ``greedy``:
    whether each group has a play at temperature 0 beside it. ``reward``: what grades in place of
    the env.
    """

    engine: Engine
    env: Env
    chat: Chat
    max_tokens: int
    temperature: float
    max_turns: int = 8
    grading: float = SECONDS
    thinking: Thinking | None = None
    context: int = 0
    greedy: bool = False
    reward: Grades | None = None

    @property
    def longest(self) -> int:
        """The most tokens that a turn may take."""
        if self.thinking is None:
            return self.max_tokens
        first = self.thinking.tokens + self.thinking.window
        return first + len(self._words(self.thinking)) + self.max_tokens

    async def group(self, problem: Problem, visit: int, size: int, seed: int, phase: str) -> Group:
        """Play a problem ``size`` times and grade the plays together.

        Draws depend on (seed, phase, problem, visit, member, turn) and nothing else.
        """
        places = [(visit, member) for member in range(size)]
        played = self._plays(problem, places, (seed, phase))
        if self.greedy:
            cold = replace(self, temperature=0.0)._plays(problem, [(visit, size)], (seed, phase))
            trajectories = [t for part in await together([played, cold]) for t in part]
        else:
            trajectories = await played
        rewards = await grade(self.reward or self.env, problem, trajectories, self.grading)
        graded = tuple(replace(t, reward=r) for t, r in zip(trajectories, rewards, strict=True))
        return Group(problem, graded[:size], graded[size:])

    async def _plays(
        self, problem: Problem, places: Sequence[tuple[int, int]], seeds: tuple[int, str]
    ) -> list[Trajectory]:
        prompt = self.chat.encode(self.chat.messages(problem))
        if self.thinking is None and answers_once(self.env):
            return await self._answers(problem, prompt, places, seeds)
        return await together([self._play(problem, prompt, place, seeds) for place in places])

    async def _answers(
        self,
        problem: Problem,
        prompt: Sequence[int],
        places: Sequence[tuple[int, int]],
        seeds: tuple[int, str],
    ) -> list[Trajectory]:
        """What ``_play`` makes of an env that takes one answer, without a task for each play."""
        asked = [
            Sampling(
                self.max_tokens,
                self.temperature,
                problem.stop,
                seed_of(*seeds, problem.id, *place, 0),
            )
            for place in places
        ]
        if isinstance(self.engine, SamplesGroups):
            said = await self.engine.sample_group(prompt, asked)
        else:
            said = await together([self.engine.sample(prompt, one) for one in asked])
        segments, messages = answered(prompt, said), self.chat.messages(problem)
        spoken: dict[bytes, Message] = {}  # members of a group often say the same
        trajectories = []
        for (visit, member), segment, c in zip(places, segments, said, strict=True):
            key = c.tokens.tobytes()
            if key not in spoken:
                spoken[key] = self.chat.parse(c.tokens.tolist(), problem.stop)
            turn = Turn(0, len(prompt), len(segment.tokens), c.stop, self.temperature)
            dialogue = (*messages, spoken[key])
            trajectories.append(
                Trajectory(problem, visit, member, (segment,), (turn,), dialogue, usage=c.usage)
            )
        return trajectories

    async def _play(
        self,
        problem: Problem,
        prompt: Sequence[int],
        place: tuple[int, int],
        seeds: tuple[int, str],
    ) -> Trajectory:
        (visit, member), (run, phase) = place, seeds
        messages, rows, usage = list(self.chat.messages(problem)), Rows(prompt), Usage()
        name = type(self.env).__name__
        async with AsyncExitStack() as stack:
            with blaming(f"{name}.play", problem):
                episode = await stack.enter_async_context(self.env.play(problem))
            if isinstance(episode, AsksItself):
                return await self._asked(problem, episode, place, seeds, stack)
            for turn in range(self.max_turns):
                first, key = len(rows.tokens), (run, phase, problem.id, visit, member, turn)
                more = turn + 1 < self.max_turns and not isinstance(episode, OneAnswer)
                stop, used = await self._turn(problem, rows, key, more)
                usage += used
                messages.append(self.chat.parse(rows.tokens[first:], problem.stop))
                if stop != "stop":
                    break
                with blaming(f"{name}.reply", problem):
                    reply = await episode.reply(tuple(messages))
                if reply is None or not self._continued(reply, messages, rows):
                    break
            else:  # the env had more to say than turns were left
                rows.ended("turns")
            with blaming(f"{name}.facts", problem):
                facts = dict(await episode.facts())
            with blaming(f"{name}.play", problem):
                await stack.aclose()
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

    async def _asked(
        self,
        problem: Problem,
        episode: AsksItself,
        place: tuple[int, int],
        seeds: tuple[int, str],
        stack: AsyncExitStack,
    ) -> Trajectory:
        """A play whose episode asks the policy; UserError where replies are to be interrupted."""
        name = type(self.env).__name__
        if self.thinking is not None:
            raise UserError(f"rollout.think_tokens interrupts no agent's turns: {name} asks itself")
        lent = (self.max_tokens, self.temperature, self.max_turns, self.context)
        seed = seed_of(*seeds, problem.id, *place)
        recording = Recording(Seat(self.engine, self.chat, *lent, seed))
        with blaming(f"{name}.ask", problem):
            await episode.ask(recording)
        with blaming(f"{name}.facts", problem):
            facts = dict(await episode.facts())
        with blaming(f"{name}.play", problem):
            await stack.aclose()
        return recording.trajectory(problem, *place, facts)

    async def _turn(
        self, problem: Problem, rows: Rows, key: tuple[int | str, ...], more: bool
    ) -> tuple[StopReason, Usage]:
        """Sample a message: in one turn, or in two where it thinks for too long."""
        if self.thinking is None:
            said = await self._sampled(problem, rows, self.max_tokens, seed_of(*key), more)
            return said.stop, said.usage
        first, words = len(rows.tokens), self._words(self.thinking)
        budget = self.thinking.budget(seed_of(*key, "budget"))
        said = await self._sampled(problem, rows, budget, seed_of(*key), True)
        longer = [*rows.tokens, *words]
        if said.stop != "length" or not self._fits(longer):
            return said.stop, said.usage
        if not self.thinking.ended(self.chat.tokenizer.decode(rows.tokens[first:])):
            rows.ended("interrupted")
            rows.extended(longer)
        seed = seed_of(*key, "answer")
        rest = await self._sampled(problem, rows, self.max_tokens, seed, more)
        return rest.stop, said.usage + rest.usage

    async def _sampled(
        self, problem: Problem, rows: Rows, most: int, seed: int, more: bool
    ) -> Completion:
        sampling = Sampling(most, self.temperature, problem.stop, seed, more)
        completion = await self.engine.sample(rows.tokens, sampling)
        rows.sampled(completion, self.temperature)
        return completion

    def _continued(self, reply: Reply, messages: list[Message], rows: Rows) -> bool:
        """Append the env's reply, in this segment or a new one, if another turn has room then."""
        rows.turns[-1] = replace(rows.turns[-1], reward=reply.reward, state=reply.state)
        said = [*messages[: reply.keep], *reply.messages]
        longer = None if reply.keep is not None else self.chat.extend(rows.tokens, said)
        prompt = self.chat.encode(said) if longer is None else longer
        if not self._fits(prompt):
            rows.ended("length")
            return False
        messages[:] = said
        if longer is None:
            rows.rewritten(prompt)
        else:
            rows.extended(prompt)
        return True

    def _fits(self, tokens: Sequence[int]) -> bool:
        """Whether at least one token can follow."""
        return not self.context or len(tokens) < self.context

    def _words(self, thinking: Thinking) -> list[int]:
        """The interruption's tokens."""
        words: list[int] = self.chat.tokenizer.encode(thinking.words, add_special_tokens=False)
        return words


async def together(plays: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them; where one fails the others are ended before its error is raised."""
    tasks = [asyncio.ensure_future(play) for play in plays]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
