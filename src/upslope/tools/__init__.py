"""What a policy may call between its turns: a tool, a call of it, and what tells it of a mistake.

The seam between envs, which own tools, and ``forms``, which read calls from replies and write what
came back; ``play`` joins both in an ``Episode``. Nothing here knows an env.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from upslope.types import NOTHING, Message

WRONG = "error: "  # what an observation begins with where there is nothing to observe


class ToolError(Exception):
    """A call that cannot be answered: the policy observes its text, and the play goes on."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name and arguments by name, as JSON has them; ``id`` where the form gives one."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply was taken for: calls, or else a final answer, or else neither, for a reason.

    ``tolerated``: what a strict reader would have refused, "" where nothing was.
    """

    calls: tuple[Call, ...] = ()
    final: str | None = None
    fault: str = ""
    tolerated: str = ""


class Tool(Protocol):
    """Something to call. ``parameters`` is a JSON schema of an object, its properties in order."""

    @property
    def name(self) -> str:
        """As calls have it: letters, digits and underscores."""

    @property
    def description(self) -> str:
        """One sentence for the policy."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Of the arguments, which are checked against it before a call."""

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """What the policy observes; ToolError where it cannot be done. Bounded in time by play."""


class Form(Protocol):
    """How calls are written: what a prompt says of it, how replies are read, what comes back."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        """For the prompt: the tools, and how to call one and to answer."""

    def read(self, reply: str, tools: Mapping[str, Tool]) -> Said:
        """A reply's calls or its final answer; a fault in place of an error."""

    def write(self, said: Said) -> str:
        """A reply that ``read`` takes for the same; for demonstrations and gold plays."""

    def observed(self, results: Sequence[tuple[Call, str]]) -> tuple[Message, ...]:
        """The messages that tell what calls gave; a call without a name is a reply at fault."""
