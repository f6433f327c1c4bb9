"""A play in which somebody else asks the policy: what is asked and said, token by token.

A request whose messages begin as those of an earlier one and its answer goes on from the very
tokens of these, in their segment. One that forks off, or rewrites the past, has a segment of its
own. So each sampled token is trained once, and none is ever tokenised again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from upslope.chat import Chat, Offered
from upslope.seeds import seed_of
from upslope.segments import Rows
from upslope.serve.called import message_of, told, written
from upslope.types import (
    Completion,
    Engine,
    Episode,
    Message,
    Problem,
    Sampling,
    Segment,
    StopReason,
    Trajectory,
    Turn,
    Usage,
)

FLOOD = 100  # refused requests of a play, beyond which whoever asks is not heard any more


@dataclass(frozen=True, slots=True)
class Seat:
    """What a play lends to an episode that asks the policy itself.

    ``max_tokens`` of an answer and ``turns`` of a play are bounds, ``context`` that of a row (0:
    none). Temperature and seed are the play's, whatever a request says.
    """

    engine: Engine
    chat: Chat
    max_tokens: int
    temperature: float
    turns: int
    context: int
    seed: int


class OverError(Exception):
    """A request beyond a bound of the play's: ``reason`` as a turn's stop reason has it."""

    def __init__(self, reason: StopReason, words: str) -> None:
        super().__init__(words)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """A message, how it came about, and how many tokens it follows."""

    message: Message
    completion: Completion
    prompt: Sequence[int]


@dataclass(eq=False, slots=True)
class Branch:
    """A segment as it grows. ``asked``: the number of each of its turns' requests."""

    rows: Rows
    asked: list[int]
    busy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Where a dialogue stood after an answer: its messages as they were sent and as the policy
    wrote them, its tokens, and the branch that they are of."""

    sent: tuple[str, ...]
    spoken: tuple[Message, ...]
    tokens: tuple[int, ...]
    branch: Branch


class Recording:
    """All requests of one play. ``cut``: which bound refused one; ``failure``: the engine's."""

    def __init__(self, seat: Seat) -> None:
        self.seat, self.asked, self.refused = seat, 0, 0
        self.cut: StopReason | None = None
        self.failure: BaseException | None = None
        self.flooded = asyncio.Event()
        self.usage = Usage()
        self._branches: list[Branch] = []
        self._points: list[Point] = []
        self._drawn: dict[tuple[int, ...], int] = {}
        self._last: tuple[Message, ...] = ()

    async def ask(
        self,
        messages: Sequence[Message],
        tools: Sequence[Offered] = (),
        stop: tuple[str, ...] = (),
        most: int | None = None,
    ) -> Answer:
        """The policy's answer; OverError where the play has no room for one."""
        raw = messages[0]["role"] == "raw"
        sent = _sent(messages, tools)
        point, spoken = self._continued(messages[0]) if raw else self._dialogue(sent, messages)
        if point is None and not raw and not self.seat.chat.knows_tools:
            spoken = told(spoken, tools)
        prompt, branch = self._prompt(point, spoken, tools)
        self._room(prompt)
        number, self.asked = self.asked, self.asked + 1
        if branch is not None:
            branch.busy = True
        try:
            completion = await self._sampled(prompt, stop, most)
        finally:
            if branch is not None:
                branch.busy = False
        if branch is None:
            branch = Branch(Rows(prompt), [])
            self._branches.append(branch)
        branch.rows.extended(prompt)
        branch.rows.sampled(completion, self.seat.temperature)
        branch.asked.append(number)
        return self._answered(sent, spoken, tools, stop, completion, branch, number)

    def segments(self) -> tuple[Segment, ...]:
        """One for each branch, in the order in which they were begun."""
        return tuple(branch.rows.closed()[0] for branch in self._branches)

    def turns(self) -> tuple[Turn, ...]:
        """In the order of the requests; the last one says which bound ended the play, if any."""
        found = [
            (number, replace(turn, segment=place))
            for place, branch in enumerate(self._branches)
            for number, turn in zip(branch.asked, branch.rows.turns, strict=True)
        ]
        turns = [turn for _, turn in sorted(found, key=lambda pair: pair[0])]
        if turns and self.cut is not None:
            turns[-1] = replace(turns[-1], stop_reason=self.cut)
        return tuple(turns)

    def trajectory(
        self, problem: Problem, visit: int, member: int, facts: Mapping[str, Any]
    ) -> Trajectory:
        """All of it, with the dialogue that was answered last; raises what the engine raised.

        Where nobody asked there is a row all the same: the problem's prompt.
        """
        if self.failure is not None:
            raise self.failure
        said = self._last or self.seat.chat.messages(problem)
        prompt = Rows(self.seat.chat.encode(self.seat.chat.messages(problem)))
        rows, turns = self.segments() or tuple(prompt.closed()), self.turns()
        return Trajectory(problem, visit, member, rows, turns, said, facts=facts, usage=self.usage)

    def _dialogue(
        self, sent: tuple[str, ...], messages: Sequence[Message]
    ) -> tuple[Point | None, tuple[Message, ...]]:
        """The furthest point that a dialogue goes on from, and the dialogue from there."""
        begun = [known for known in self._points if sent[: len(known.sent)] == known.sent]
        point = max(reversed(begun), key=lambda known: len(known.sent), default=None)
        past, known = (point.spoken, len(point.sent) - 1) if point else ((), 0)
        return point, (*past, *map(written, messages[known:]))

    def _continued(self, asked: Message) -> tuple[Point | None, tuple[Message, ...]]:
        """The same of a text, which is a raw prompt."""
        text, texts = asked["content"], {known: _text(known) for known in self._points}
        begun = [known for known, past in texts.items() if past and text.startswith(past)]
        point = max(reversed(begun), key=lambda known: len(texts[known]), default=None)
        if point is None:
            return None, (asked,)
        return point, (*point.spoken, {"role": "raw", "content": text[len(texts[point]) :]})

    def _prompt(
        self, point: Point | None, spoken: tuple[Message, ...], tools: Sequence[Offered]
    ) -> tuple[list[int], Branch | None]:
        """The tokens to continue, and the branch that they continue, if they do."""
        chat = self.seat.chat
        longer = None if point is None else chat.extend(point.tokens, spoken, tools)
        if point is None or longer is None:
            return chat.encode(spoken, tools), None
        end = len(point.branch.rows.tokens) == len(point.tokens)
        return longer, point.branch if end and not point.branch.busy else None

    def _room(self, prompt: Sequence[int]) -> None:
        seat = self.seat
        if self.asked >= seat.turns:
            self._refuse("turns", f"this play has {seat.turns} turns, and they are used")
        if seat.context and len(prompt) >= seat.context:
            words = f"{len(prompt)} tokens leave no room in the context of {seat.context}"
            self._refuse("length", words)

    def _refuse(self, reason: StopReason, words: str) -> None:
        self.cut, self.refused = reason, self.refused + 1
        if self.refused > FLOOD:
            self.flooded.set()
        raise OverError(reason, words)

    async def _sampled(
        self, prompt: list[int], stop: tuple[str, ...], most: int | None
    ) -> Completion:
        """Draws depend on the play's seed, the prompt, and how often it has been asked."""
        key = tuple(prompt)
        again = self._drawn[key] = self._drawn.get(key, -1) + 1
        seat, name = self.seat, " ".join(map(str, prompt))
        seed = seed_of(seat.seed, name, again)
        limit = min(most or seat.max_tokens, seat.max_tokens)
        sampling = Sampling(limit, seat.temperature, stop, seed, continues=True)
        task = asyncio.ensure_future(seat.engine.sample(prompt, sampling))
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()
        self.failure = self.failure or task.exception()
        completion = task.result()
        self.usage += completion.usage
        return completion

    def _answered(
        self,
        sent: tuple[str, ...],
        spoken: tuple[Message, ...],
        tools: Sequence[Offered],
        stop: tuple[str, ...],
        completion: Completion,
        branch: Branch,
        number: int,
    ) -> Answer:
        """Remember where the dialogue stands now. The policy's own words are kept whole: with a
        stop string and the special tokens that a client never sees, and the calls in their text."""
        chat, tokens = self.seat.chat, tuple(branch.rows.tokens)
        reply = completion.tokens.tolist()
        kept = [token for token in reply if token not in chat.eos]
        words = chat.tokenizer.decode(kept, skip_special_tokens=False)
        whole: Message = {"role": "assistant", "content": words}
        text = str(chat.parse(reply, stop)["content"])
        message = message_of(text, tools, f"call_{number}")
        sent = (*sent, *_sent((message,), ())[1:])
        self._points.append(Point(sent, (*spoken, whole), tokens, branch))
        self._last = (*spoken, {"role": "assistant", "content": text})
        return Answer(message, completion, tokens[: len(tokens) - len(reply)])


@runtime_checkable
class AsksItself(Episode, Protocol):
    """An episode whose turns are not the player's: it asks the policy by itself."""

    async def ask(self, recording: Recording) -> None:
        """Have somebody ask, until the play is over; ``facts`` says how it ended."""


def _text(point: Point) -> str:
    """All text of a raw dialogue; "" of another."""
    raw = point.spoken[0]["role"] == "raw"
    return "".join(message["content"] for message in point.spoken) if raw else ""


def _sent(messages: Sequence[Message], tools: Sequence[Offered]) -> tuple[str, ...]:
    """What is compared of a request: its tools, and then each message."""
    return tuple(json.dumps(part, sort_keys=True) for part in (list(tools), *map(dict, messages)))
