"""Play one problem, or a group of one problem, through an engine and an env."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from upslope.chat import Chat
from upslope.seeds import seed_of
from upslope.types import (
    Completion,
    Engine,
    Env,
    Episode,
    Group,
    Message,
    Problem,
    Reward,
    Sampling,
    Segment,
    Trajectory,
    Turn,
    Usage,
    UserError,
)


@dataclass(frozen=True)
class Player:
    """What a play needs besides its problem. ``grading`` bounds a group's grading, in seconds."""

    engine: Engine
    env: Env
    chat: Chat
    max_tokens: int
    temperature: float
    max_turns: int = 8
    grading: float = 60.0

    async def group(self, problem: Problem, visit: int, size: int, seed: int, phase: str) -> Group:
        """Play a problem ``size`` times and grade the plays together.

        Draws depend on (seed, phase, problem, visit, member, turn) and nothing else.
        """
        prompt = self.chat.encode(self.chat.messages(problem))
        plays = [
            asyncio.ensure_future(self._play(problem, prompt, (visit, member), (seed, phase)))
            for member in range(size)
        ]
        try:
            trajectories = await asyncio.gather(*plays)
        finally:
            for play in plays:
                play.cancel()
        rewards = await self._grade(problem, trajectories)
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

    async def _grade(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """One checked reward for each trajectory; a grader that raises or hangs stops the run."""
        name = type(self.env).__name__
        try:
            rewards = await asyncio.wait_for(
                self.env.rewards(problem, trajectories), timeout=self.grading
            )
        except TimeoutError as error:
            raise UserError(
                f"{name}.rewards took more than {self.grading:g} s on problem {problem.id!r}: "
                "bound the grader's time and mark what it cannot grade as invalid"
            ) from error
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{name}.rewards raised {type(error).__name__} on problem {problem.id!r}: {error}"
            ) from error
        if len(rewards) != len(trajectories):
            raise UserError(
                f"{name}.rewards returned {len(rewards)} rewards for {len(trajectories)} "
                f"trajectories of problem {problem.id!r}: return one for each, in order"
            )
        for reward in rewards:
            numbers = (reward.total, *reward.parts.values(), *reward.costs.values())
            if reward.valid and not all(math.isfinite(number) for number in numbers):
                raise UserError(
                    f"{name}.rewards gave a reward that is not finite on problem {problem.id!r}: "
                    f"return Reward(0.0, valid=False, reason=...) where grading failed"
                )
        return rewards


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
