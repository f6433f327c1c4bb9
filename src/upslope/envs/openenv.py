"""Environments behind OpenEnv's protocol: each play is a session of a server, over a WebSocket.

A client of the protocol alone: reset, step, and what is observed. The policy's reply becomes an
action by a template, and so does what is observed become a message.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from upslope.envs.places import Places
from upslope.seeds import seed_of, split_of
from upslope.types import Message, Problem, Reply, Reward, Split, Trajectory, UserError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

MOST = 2**24  # bytes of a message
SEEDS = 2**31  # what servers take for one
REPLY = "{reply}"
MALFORMED = ("VALIDATION_ERROR", "INVALID_JSON", "EXECUTION_ERROR")  # the action's own
FOREIGN = "the server answers in another form than OpenEnv's"
PATIENCE = 20  # seeds tried for each problem wanted


class FailedError(Exception):
    """The server's own fault: ``code`` as it says, or "" where it says nothing any more."""

    def __init__(self, words: str, code: str = "") -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True)
class OpenEnv:
    """``url`` of the server. A problem is a seed: what is observed after its reset is asked by
    ``question``, in which ``{observed}`` and ``{seed}`` stand for these; ``reset`` is told beside
    the seed. Observations are told by the fields that ``told`` names, all of them by default.

    ``action``: what a step is given; where it says ``{reply}``, and nothing else, the reply is put,
    as a number where it is one. Rewards are those of the steps; their sum is the total, and
    ``correct`` whether it reaches ``solved``. ``at_once``: sessions, which a server bounds as well.
    """

    url: str
    action: Mapping[str, Any] = field(default_factory=lambda: {"message": REPLY})
    told: tuple[str, ...] = ()
    question: str = "{observed}"
    reset: Mapping[str, Any] = field(default_factory=dict)
    solved: float = 1.0
    seconds: float = 60.0
    at_once: int = 8
    train: int = 200
    test: int = 50

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://", "ws://", "wss://")):
            raise UserError(f"url must begin with http:// or ws://, got {self.url!r}")
        if min(self.train, self.test, self.at_once) < 1 or self.seconds <= 0:
            raise UserError("train, test, at_once and seconds must be above 0")
        if importlib.util.find_spec("websockets") is None:
            raise UserError("this env needs websockets: pip install 'upslope[openenv]'")

    @property
    def address(self) -> str:
        """Of the sessions."""
        return self.url.replace("http", "ws", 1).rstrip("/").removesuffix("/ws") + "/ws"

    def problems(self, split: Split) -> Sequence[Problem]:
        """Seeds whose question is of this split; the server is asked for each."""
        return self._found[split]

    @cached_property
    def _found(self) -> dict[Split, list[Problem]]:
        wanted: dict[Split, int] = {"train": self.train, "validation": self.test, "test": self.test}
        found: dict[Split, list[Problem]] = {split: [] for split in wanted}
        seen, tried = set[str](), 0
        for problem in self._drawn():
            split, tried = split_of(question := problem.messages[0]["content"]), tried + 1
            if question not in seen and len(found[split]) < wanted[split]:
                seen.add(question)
                found[split].append(problem)
            if all(len(found[s]) == n for s, n in wanted.items()):
                return found
            if tried >= PATIENCE * sum(wanted.values()):
                break
        raise UserError(
            f"{self.url} observes only {len(seen)} different things after {tried} resets: lower "
            'train and test, or let question = "Game {seed}: {observed}" tell games apart'
        )

    def _drawn(self) -> Iterator[Problem]:
        """One problem after another; UserError where the server cannot be used."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        number = 0
        try:
            with connect(
                self.address, open_timeout=self.seconds, max_size=MOST, proxy=None
            ) as wire:
                while True:
                    seed = seed_of("openenv", number) % SEEDS
                    number += 1
                    wire.send(json.dumps({"type": "reset", "data": {**self.reset, "seed": seed}}))
                    observed = _observation(wire.recv(timeout=self.seconds))["observation"]
                    words = self.words(observed)
                    asked = self.question.replace("{seed}", str(seed)).replace("{observed}", words)
                    info = {"seed": seed}
                    yield Problem(str(seed), ({"role": "user", "content": asked},), info=info)
        except (OSError, TimeoutError, WebSocketException, FailedError) as error:
            raise UserError(f"the server {self.url} cannot be used: {error}") from error

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Session]:
        """A session of the server; one that cannot be had fails the play, not the run."""
        async with self._places.one():
            session = Session(self)
            await session.begin(problem)
            try:
                yield session
            finally:
                await session.close()

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The sum of what steps earned; none, for a reason, where the server failed."""
        return [self._reward(t.facts) for t in trajectories]

    @cached_property
    def _places(self) -> Places:
        return Places(self.at_once)

    def _reward(self, facts: Mapping[str, Any]) -> Reward:
        if facts.get("failure"):
            return Reward(0.0, valid=False, reason=str(facts["failure"]))
        total = float(sum(facts.get("rewards", ())))
        return Reward(total, {"correct": float(total >= self.solved)})

    def words(self, observed: Any) -> str:
        """An observation as text: its only field's own, or JSON."""
        known = observed if isinstance(observed, dict) else {"observed": observed}
        named = self.told or [name for name in known if name != "metadata"]
        parts = {name: known.get(name) for name in named}
        only = next(iter(parts.values())) if len(parts) == 1 else parts
        return only if isinstance(only, str) else json.dumps(only)


class Session:
    """An ``Episode``: every reply is a step."""

    def __init__(self, env: OpenEnv) -> None:
        self._env, self._failure = env, ""
        self._wire: ClientConnection | None = None
        self._rewards: list[float] = []
        self._errors = 0

    async def begin(self, problem: Problem) -> None:
        """Reset a session of the server to the problem."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        env = self._env
        try:
            self._wire = await connect(
                env.address, open_timeout=env.seconds, max_size=MOST, proxy=None
            )
        except (OSError, WebSocketException) as error:
            self._failure = f"{env.url} cannot be reached: {error}"
            return
        with suppress(FailedError):
            await self._asked("reset", {**env.reset, "seed": problem.info["seed"]})

    async def reply(self, messages: Sequence[Message]) -> Reply | None:
        """What is observed after a step; None where it ended the play, or the server failed."""
        said = str(messages[-1]["content"])
        if self._wire is None or self._failure:
            return None
        try:
            found = await self._asked("step", filled(self._env.action, said))
        except FailedError as failed:
            if self._failure:
                return None
            self._errors += 1
            return Reply(({"role": "user", "content": f"error: {failed}"},))
        earned = float(found.get("reward") or 0.0)
        self._rewards.append(earned)
        if found.get("done"):
            return None
        observed = {"role": "user", "content": self._env.words(found["observation"])}
        return Reply((observed,), reward=earned)

    async def facts(self) -> Mapping[str, Any]:
        """``rewards`` of the steps, actions that were ``errors``, and ``failure``, the server's."""
        return {"rewards": self._rewards, "errors": self._errors, "failure": self._failure}

    async def close(self) -> None:
        """Take leave."""
        if self._wire is not None:
            with suppress(OSError):
                await self._wire.close()

    async def _asked(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """An observation; FailedError, which is a failure unless the action was at fault."""
        from websockets.exceptions import WebSocketException

        assert self._wire is not None
        try:
            async with asyncio.timeout(self._env.seconds):
                await self._wire.send(json.dumps({"type": kind, "data": dict(data)}))
                return _observation(await self._wire.recv())
        except TimeoutError:
            self._failure = f"no answer to a {kind} within {self._env.seconds:g} s"
        except (OSError, WebSocketException) as error:
            self._failure = f"the session ended: {error}"
        except FailedError as failed:
            if kind == "reset" or failed.code not in MALFORMED:
                self._failure = str(failed)
            raise
        raise FailedError(self._failure)


def filled(template: Any, reply: str) -> Any:
    """An action: the reply in each place that asks for it, as a number where it is one."""
    if template == REPLY:
        words = reply.strip()
        with suppress(ValueError):
            return int(words)
        return reply
    if isinstance(template, Mapping):
        return {key: filled(value, reply) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [filled(value, reply) for value in template]
    return template.replace(REPLY, reply) if isinstance(template, str) else template


def _observation(message: str | bytes) -> Mapping[str, Any]:
    """What an answer says; FailedError where it is an error, or no answer of this protocol."""
    try:
        said = json.loads(message)
        data = said["data"]
        if said["type"] == "error":
            raise FailedError(str(data.get("message")), str(data.get("code")))
        if isinstance(data["observation"], dict) and math.isfinite(float(data.get("reward") or 0)):
            return dict(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FailedError(FOREIGN) from error
    raise FailedError(FOREIGN)
