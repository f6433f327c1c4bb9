"""The routes of OpenAI's protocol, over whoever answers: a served model, or a play's recording."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from upslope.chat import Chat
from upslope.serve.asked import Asked, ChatAsked, RefusedError, TextAsked, read_chat, read_text
from upslope.serve.http import Request, Response
from upslope.serve.recording import Answer
from upslope.serve.replies import DONE, Entry, Form, ending, message_of
from upslope.types import UserError

Heard = Callable[[int, float], None]
EVENTS = "text/event-stream"


class Voice(Protocol):
    """Who answers; RefusedError or UserError where that cannot be."""

    @property
    def chat(self) -> Chat: ...

    async def reply(self, asked: ChatAsked, choice: int, heard: Heard | None) -> Answer:
        """To a dialogue; ``heard`` may be told of each token."""

    async def continuation(
        self, prompt: str | list[int], asked: TextAsked, choice: int, heard: Heard | None
    ) -> Answer:
        """Of a text, or of tokens."""


@dataclass(frozen=True)
class Endpoint:
    """``models``: their names, any where there is none. ``key``: what a request must bring."""

    voice: Voice
    models: Sequence[str] = ()
    key: str = ""

    async def handle(self, request: Request) -> Response:
        """Every request gets an answer; one that is refused, OpenAI's form of an error."""
        try:
            return await self._routed(request)
        except RefusedError as refused:
            return Response(refused.status, refused.body())
        except UserError as error:
            return Response(400, RefusedError(400, str(error)).body())

    async def _routed(self, request: Request) -> Response:
        if request.path == "/health":
            return Response(200, b"{}")
        if self.key and request.key != self.key:
            raise RefusedError(401, "the API key is not this endpoint's", "invalid_api_key")
        posted = {"/v1/chat/completions": self._dialogue, "/v1/completions": self._text}
        path = request.path.rstrip("/")
        if (answer := posted.get(path)) is not None:
            if request.method != "POST":
                raise RefusedError(405, f"{path} takes POST")
            return await answer(request.body)
        if path == "/v1/models" and request.method == "GET":
            listed = [self._model(name) for name in self.models]
            return Response(200, json.dumps({"object": "list", "data": listed}).encode())
        name = path.removeprefix("/v1/models/")
        if name != path and name in self.models:
            return Response(200, json.dumps(self._model(name)).encode())
        raise RefusedError(404, f"there is no {request.method} {request.path}", "not_found")

    async def _dialogue(self, body: bytes) -> Response:
        asked = read_chat(body)
        form = self._form(asked, dialogue=True, logprobs=bool(asked.logprobs))
        ways = [lambda heard, n=n: self.voice.reply(asked, n, heard) for n in range(asked.n)]
        return await self._said(ways, form, asked, whole=bool(asked.offered))

    async def _text(self, body: bytes) -> Response:
        asked = read_text(body)
        form = self._form(asked, dialogue=False, logprobs=asked.logprobs is not None)
        ways = [
            lambda heard, prompt=prompt, n=n: self.voice.continuation(prompt, asked, n, heard)
            for prompt in asked.prompts
            for n in range(asked.n)
        ]
        return await self._said(ways, form, asked, whole=False)

    async def _said(self, ways: Sequence[Way], form: Form, asked: Asked, whole: bool) -> Response:
        """All choices, sampled together. ``whole``: no part of one is shown before its end."""
        if not asked.stream:
            answers = await gathered([way(None) for way in ways])
            return Response(200, form.whole(answers))
        stream = Stream(form, asked, whole)
        pieces = stream.pieces(ways)
        first = await anext(pieces)  # what is refused has a status of its own
        return Response(200, _following(first, pieces), EVENTS)

    def _form(self, asked: Asked, dialogue: bool, logprobs: bool) -> Form:
        if self.models and asked.model not in self.models:
            words = f"there is no model {asked.model!r} here: see /v1/models"
            raise RefusedError(404, words, "model_not_found", "model")
        name = asked.model or "policy"
        return Form(self.voice.chat, name, dialogue, asked.n, logprobs, asked.return_token_ids)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "upslope"}


Way = Callable[[Heard | None], Coroutine[Any, Any, Answer]]
Event = tuple[int, tuple[int, float] | None]  # a choice, and its next token, or its end


class Stream:
    """The choices of one request as they are sampled."""

    def __init__(self, form: Form, asked: Asked, whole: bool) -> None:
        self._form, self._asked, self._hidden = form, asked, whole
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def pieces(self, ways: Sequence[Way]) -> AsyncIterator[bytes]:
        """Server-sent events; what one choice raises ends all."""
        tasks = [asyncio.ensure_future(self._run(n, way)) for n, way in enumerate(ways)]
        spelled = [Spelled(self._form, self._asked.stops, self._hidden) for _ in ways]
        try:
            left, begun = len(tasks), False
            while left:
                place, token = await self._events.get()
                if token is None:
                    answer, left = tasks[place].result(), left - 1
                if not begun and self._form.dialogue:
                    for n in range(len(ways)):
                        yield self._form.piece(n, {"role": "assistant", "content": ""})
                begun = True
                if token is not None:
                    text = spelled[place].add(*token)
                    if text:
                        yield self._form.piece(place, {"content": text}, spelled[place].taken())
                    continue
                delta = spelled[place].rest(answer)
                yield self._form.piece(place, delta, spelled[place].taken(), ending(answer))
            if self._asked.says_usage:
                yield self._form.cost([task.result() for task in tasks])
            yield DONE
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, place: int, way: Way) -> Answer:
        try:
            return await way(lambda *token: self._events.put_nowait((place, token)))
        finally:
            # The task itself ends before anybody can take this from the queue.
            self._events.put_nowait((place, None))


class Spelled:
    """A choice's text as it grows, without what a stop string or a character may still change."""

    def __init__(self, form: Form, stops: tuple[str, ...], hidden: bool) -> None:
        self._form, self._stops, self._hidden = form, stops, hidden
        self._tokens: list[int] = []
        self._untold: list[Entry] = []
        self._shown = ""

    def add(self, token: int, logprob: float) -> str:
        """The text that is certain now and was not before."""
        self._tokens.append(token)
        if self._form.logprobs:
            self._untold.append(self._form.entry(token, logprob))
        if self._hidden:
            return ""
        text = self._form.chat.parse(self._tokens, self._stops)["content"].rstrip("\ufffd")
        return self._grown(text[: len(text) - _pending(text, self._stops)])

    def rest(self, answer: Answer) -> dict[str, Any]:
        """What was held back, now that the whole is known."""
        if not self._tokens and self._form.logprobs:
            pairs = zip(answer.completion.tokens, answer.completion.logprobs, strict=True)
            self._untold = [self._form.entry(int(t), float(p)) for t, p in pairs]
        message = message_of(answer)
        if calls := message.get("tool_calls"):
            numbered = [{"index": n, **call} for n, call in enumerate(calls)]
            return {"content": message["content"], "tool_calls": numbered}
        text = self._grown(message["content"])
        return {"content": text} if text else {}

    def taken(self) -> list[Entry]:
        """The tokens that nobody was told of yet."""
        told, self._untold = self._untold, []
        return told

    def _grown(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        more = text[len(self._shown) :]
        self._shown = text
        return more


async def gathered(asking: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """All of them; where one fails the others are ended before its error is raised."""
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _following(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _pending(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    ends = (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
    return max(ends, default=0)
