"""What OpenAI's protocol asks for, checked, and its form of an error. No engine, no sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from upslope.types import Message

T = TypeVar("T", bound=BaseModel)
Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[int, Field(ge=1)]
STOPS = 16
CHOICES = 128
# What samples from another distribution than log-probabilities describe, and its neutral values.
NEUTRAL: Mapping[str, Sequence[Any]] = {
    "top_p": (None, 1, 1.0),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "top_logprobs": (None, 0),
    "response_format": (None, {"type": "text"}),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "audio": (None,),
}


class RefusedError(Exception):
    """A request that is not answered: an HTTP status, words, and what OpenAI's clients look at."""

    def __init__(self, status: int, words: str, code: str | None = None, at: str | None = None):
        super().__init__(words)
        self.status, self.code, self.at = status, code, at

    def body(self) -> bytes:
        """OpenAI's form of it."""
        return refusal(self.status, str(self), self.code, self.at)


def refusal(status: int, words: str, code: str | None = None, at: str | None = None) -> bytes:
    """An error's body."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return json.dumps(
        {"error": {"message": words, "type": kind, "param": at, "code": code}}
    ).encode()


class Part(BaseModel):
    """A part of a message's content; only text is understood."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text"]
    text: str


class Called(BaseModel):
    """A function's name and its arguments, as JSON text."""

    model_config = ConfigDict(extra="ignore")
    name: Text
    arguments: str = "{}"


class ToolCall(BaseModel):
    """A call that an assistant's message made."""

    model_config = ConfigDict(extra="ignore")
    id: str = ""
    type: Literal["function"] = "function"
    function: Called


class Said(BaseModel):
    """A message of the dialogue."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def message(self) -> Message:
        """With what it has alone, its content as one text; a developer is the system."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        role = "system" if self.role == "developer" else self.role
        found: dict[str, Any] = {"role": role, "content": text}
        if self.tool_calls:
            found["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        for key, value in (("tool_call_id", self.tool_call_id), ("name", self.name)):
            if value:
                found[key] = value
        return found


class Function(BaseModel):
    """What may be called: ``parameters`` is a JSON schema."""

    model_config = ConfigDict(extra="ignore")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})


class ToolGiven(BaseModel):
    """A tool of the request."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["function"]
    function: Function


class StreamOptions(BaseModel):
    """Whether a stream's last piece says what it cost."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="ignore")
    model: str = ""
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def says_usage(self) -> bool:
        """Whether a stream's last piece says what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatAsked(Asked):
    """The body of a chat completion."""

    messages: Annotated[list[Said], Field(min_length=1)]
    tools: list[ToolGiven] | None = None
    tool_choice: str | dict[str, Any] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None

    @property
    def most(self) -> int | None:
        """Tokens of the reply, at most."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """The messages, each with what it has alone."""
        return tuple(said.message() for said in self.messages)

    @property
    def offered(self) -> tuple[Mapping[str, Any], ...]:
        """The tools that may be called."""
        given = () if self.tool_choice == "none" else (self.tools or ())
        return tuple(tool.model_dump() for tool in given)


class TextAsked(Asked):
    """The body of a completion: texts or token ids to continue."""

    prompt: str | list[int] | Annotated[list[str | list[int]], Field(min_length=1)]
    max_tokens: Tokens | None = 16
    logprobs: Annotated[int, Field(ge=0)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several; an empty list is one prompt without tokens."""
        if isinstance(self.prompt, str) or all(isinstance(part, int) for part in self.prompt):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]


def read_chat(body: bytes) -> ChatAsked:
    """A chat completion's body; RefusedError where it cannot be answered as asked."""
    given = _object(body)
    asked = _checked(ChatAsked, given)
    if asked.tool_choice not in (None, "none", "auto"):
        words = 'tool_choice may be "auto" or "none": a call is not forced here'
        raise RefusedError(400, words, "unsupported_value", "tool_choice")
    return asked


def read_text(body: bytes) -> TextAsked:
    """A completion's body; RefusedError where it cannot be answered as asked."""
    asked = _checked(TextAsked, _object(body))
    if asked.logprobs:
        words = "logprobs may be 0, the sampled tokens' own: others are not kept"
        raise RefusedError(400, words, "unsupported_value", "logprobs")
    return asked


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(given, dict):
        raise RefusedError(400, "the body must be a JSON object", "invalid_json")
    for name, neutral in NEUTRAL.items():
        if given.get(name) not in neutral:
            words = f"{name} is not offered: the policy is sampled as it is, at a temperature"
            raise RefusedError(400, words, "unsupported_parameter", name)
    return given


def _checked(kind: type[T], given: Mapping[str, Any]) -> T:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in found["loc"]) or None
        raise RefusedError(
            400, f"{at or 'the body'}: {found['msg']}", "invalid_value", at
        ) from None
