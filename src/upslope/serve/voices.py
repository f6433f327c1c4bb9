"""Who answers an endpoint's requests: a model that is served, or one play's recording."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from upslope.chat import Chat, Offered
from upslope.seeds import seed_of
from upslope.serve.asked import ChatAsked, RefusedError, TextAsked
from upslope.serve.called import message_of, told, written
from upslope.serve.endpoint import Heard
from upslope.serve.recording import Answer, OverError, Recording
from upslope.types import Completion, Message, Sampling


class Samples(Protocol):
    """An engine that says tokens as it samples them."""

    async def sample(
        self, tokens: Sequence[int], sampling: Sampling, heard: Heard | None = None
    ) -> Completion: ...


@dataclass(frozen=True)
class Served:
    """A model for anybody. ``most``: tokens of an answer to who names no bound."""

    engine: Samples
    chat: Chat
    most: int

    async def reply(self, asked: ChatAsked, choice: int, heard: Heard | None) -> Answer:
        """To a dialogue."""
        tools = asked.offered
        messages = tuple(map(written, asked.dialogue))
        known = messages if self.chat.knows_tools else told(messages, tools)
        prompt = self.chat.encode(known, tools)
        sampling = self._sampling(asked, asked.most, choice)
        return await self._said(prompt, sampling, tools, heard)

    async def continuation(
        self, prompt: str | list[int], asked: TextAsked, choice: int, heard: Heard | None
    ) -> Answer:
        """Of a text, or of tokens."""
        tokens = prompt
        if isinstance(tokens, str):
            tokens = self.chat.encode([{"role": "raw", "content": tokens}])
        sampling = self._sampling(asked, asked.max_tokens, choice)
        return await self._said(tokens, sampling, (), heard)

    def _sampling(self, asked: ChatAsked | TextAsked, most: int | None, choice: int) -> Sampling:
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        temperature = 1.0 if asked.temperature is None else asked.temperature
        seed = seed_of("serve", seed, choice)
        return Sampling(most or self.most, temperature, asked.stops, seed, continues=True)

    async def _said(
        self, prompt: list[int], sampling: Sampling, tools: Sequence[Offered], heard: Heard | None
    ) -> Answer:
        completion = await self.engine.sample(prompt, sampling, heard)
        text = str(self.chat.parse(completion.tokens.tolist(), sampling.stop)["content"])
        name = f"call_{secrets.token_hex(6)}"
        return Answer(message_of(text, tools, name), completion, prompt)


@dataclass(frozen=True)
class Recorded:
    """A play. Its sampling is the run's: of a request's own, stop strings and a lower bound on
    tokens count; a temperature and a seed do not."""

    recording: Recording

    @property
    def chat(self) -> Chat:
        """The policy's."""
        return self.recording.seat.chat

    async def reply(self, asked: ChatAsked, choice: int, heard: Heard | None) -> Answer:
        """To a dialogue."""
        return await self._asked(asked.dialogue, asked.offered, asked.stops, asked.most)

    async def continuation(
        self, prompt: str | list[int], asked: TextAsked, choice: int, heard: Heard | None
    ) -> Answer:
        """Of a text."""
        if not isinstance(prompt, str):
            words = "in training a prompt must be text: its tokens are kept with the play"
            raise RefusedError(400, words, "unsupported_value", "prompt")
        raw = ({"role": "raw", "content": prompt},)
        return await self._asked(raw, (), asked.stops, asked.max_tokens)

    async def _asked(
        self,
        messages: Sequence[Message],
        tools: Sequence[Offered],
        stop: tuple[str, ...],
        most: int | None,
    ) -> Answer:
        try:
            return await self.recording.ask(messages, tools, stop, most)
        except OverError as over:
            code = "context_length_exceeded" if over.reason == "length" else "turns_exceeded"
            status = 400 if over.reason == "length" else 403  # no client tries these again
            raise RefusedError(status, str(over), code) from None
