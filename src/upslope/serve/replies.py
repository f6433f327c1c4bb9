"""Answers in the form that OpenAI's clients read: whole, and in the pieces of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from upslope.chat import Chat
from upslope.serve.recording import Answer
from upslope.types import NOTHING

DONE = b"data: [DONE]\n\n"
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """How one request is answered: as chat or as text, ``n`` times each, with which extras."""

    chat: Chat
    model: str
    dialogue: bool
    n: int = 1
    logprobs: bool = False
    ids: bool = False
    name: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Answer]) -> bytes:
        """All choices, and what they cost."""
        choices = [self._choice(place, answer) for place, answer in enumerate(answers)]
        kind = "chat.completion" if self.dialogue else "text_completion"
        head = self._head(kind)
        return json.dumps({**head, "choices": choices, "usage": self.usage(answers)}).encode()

    def piece(
        self,
        place: int,
        delta: Mapping[str, Any],
        said: Sequence[Entry] = (),
        end: str | None = None,
    ) -> bytes:
        """A part of a choice: what came to its message, the tokens that this took, how it ended."""
        choice: dict[str, Any] = {"index": place, "finish_reason": end, "logprobs": None}
        if self.logprobs and said:
            choice["logprobs"] = self.told(said)
        if self.dialogue:
            choice["delta"] = dict(delta)
        else:
            choice["text"] = delta.get("content", "")
        return self._event({"choices": [choice]})

    def cost(self, answers: Sequence[Answer]) -> bytes:
        """A stream's last piece."""
        return self._event({"choices": [], "usage": self.usage(answers)})

    def entry(self, token: int, logprob: float) -> Entry:
        """A sampled token."""
        text: str = self.chat.tokenizer.decode([token], skip_special_tokens=False)
        spelled = list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": spelled, "top_logprobs": []}

    def told(self, said: Sequence[Entry]) -> Mapping[str, Any]:
        """Tokens as chat completions tell of them, or as completions do."""
        if self.dialogue:
            return {"content": list(said), "refusal": None}
        tokens = [entry["token"] for entry in said]
        places = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
        logprobs = [entry["logprob"] for entry in said]
        found = {"tokens": tokens, "token_logprobs": logprobs, "text_offset": places}
        return {**found, "top_logprobs": None}

    def usage(self, answers: Sequence[Answer]) -> Mapping[str, Any]:
        """Tokens; a prompt counts once, however often it is answered."""
        asked = answers[:: self.n]
        prompt = sum(len(answer.prompt) for answer in asked)
        said = sum(len(answer.completion.tokens) for answer in answers)
        cached = sum(answer.completion.usage.cached for answer in asked)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "total_tokens": prompt + said,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _choice(self, place: int, answer: Answer) -> Mapping[str, Any]:
        choice: dict[str, Any] = {"index": place, "finish_reason": ending(answer), "logprobs": None}
        if self.logprobs:
            pairs = zip(answer.completion.tokens, answer.completion.logprobs, strict=True)
            choice["logprobs"] = self.told([self.entry(int(t), float(p)) for t, p in pairs])
        if self.ids:
            choice["prompt_token_ids"] = list(answer.prompt)
            choice["token_ids"] = answer.completion.tokens.tolist()
        if self.dialogue:
            choice["message"] = message_of(answer)
        else:
            choice["text"] = answer.message["content"]
        return choice

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.dialogue else "cmpl"
        name = f"{prefix}-{self.name}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model}

    def _event(self, content: Mapping[str, Any]) -> bytes:
        head = self._head("chat.completion.chunk" if self.dialogue else "text_completion")
        return b"data: " + json.dumps({**head, **content}).encode() + b"\n\n"


def message_of(answer: Answer) -> Mapping[str, Any]:
    """The assistant's message; of nothing but calls the content is null."""
    content = answer.message["content"]
    calls = answer.message.get("tool_calls")
    called = {"tool_calls": calls} if calls else NOTHING
    return {"role": "assistant", "content": content or (None if calls else ""), **called}


def ending(answer: Answer) -> str:
    """Why it ended: OpenAI's word."""
    if answer.completion.stop == "length":
        return "length"
    return "tool_calls" if answer.message.get("tool_calls") else "stop"
