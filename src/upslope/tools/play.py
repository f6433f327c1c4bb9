"""Plays in which the policy calls tools: an ``Episode`` over an env's tools and a form of calls.

Whatever a reply or a tool does, the play goes on: what cannot be read or done is observed as an
error, and counted. Only a tool that computes without awaiting holds up others, as any of its kind
in one process does: such work belongs into a thread or the sandbox.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from upslope.seeds import seed_of
from upslope.tools import WRONG, Call, Form, Said, Tool, ToolError
from upslope.tools.json_calls import JsonCalls
from upslope.tools.react import React
from upslope.tools.schema import misfit
from upslope.tools.terse import Terse
from upslope.types import NOTHING, Message, Problem, Reply, UserError

FORMS: Mapping[str, Form] = {"react": React(), "json": JsonCalls(), "terse": Terse()}


@dataclass(frozen=True)
class Limits:
    """Of one play: ``turns`` of the policy, ``calls`` at once, ``characters`` of an observation,
    ``seconds`` of a call. ``malformed`` is what a turn earns that is not read, or calls what there
    is not. ``compact``: whether the policy may replace the past by its own summary. ``tolerant``
    False takes for malformed what a strict reader does not read.
    """

    turns: int = 8
    characters: int = 2000
    seconds: float = 5.0
    malformed: float = -0.02
    compact: bool = False
    calls: int = 8
    tolerant: bool = True

    def __post_init__(self) -> None:
        if min(self.turns, self.characters, self.calls) < 1 or self.seconds <= 0:
            raise UserError("turns, calls, characters and seconds of a play must be above 0")


@dataclass(frozen=True)
class Compact:
    """The action that leaves of the dialogue its prompt, and a summary in the policy's words."""

    name: str = "compact"
    description: str = "Forget all turns so far; only this summary of them remains."
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {
            "type": "object",
            "properties": {"summary": {"type": "string"}},
            "required": ["summary"],
        }
    )

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """The summary, to be observed in place of what it sums up."""
        return str(arguments["summary"])


COMPACT = Compact()


class ToolPlay:
    """One play. ``prompt_messages``: how many of the dialogue's first ones are the problem's."""

    def __init__(
        self,
        tools: Sequence[Tool],
        form: Form,
        limits: Limits = Limits(),
        prompt_messages: int = 1,
    ) -> None:
        self.known = {tool.name: tool for tool in offered(tools, limits)}
        self.form, self.limits, self.prompt_messages = form, limits, prompt_messages
        self.final: str | None = None
        self.calls: list[dict[str, Any]] = []
        self.answered = set[str]()  # what is known by now, whatever the order it was asked in
        self.turns = self.malformed = self.errors = self.tolerated = 0

    async def reply(self, messages: Sequence[Message]) -> Reply | None:
        """What the calls of the last message gave; None for a final answer or the last turn."""
        self.turns += 1
        said = self._read(str(messages[-1]["content"]))
        if said.final is not None:
            self.final = said.final
            return None
        before = self.malformed
        if said.fault:
            self.malformed += 1
            results = [(Call(""), f"{WRONG}{said.fault}")]
        else:
            results = await asyncio.gather(*map(self._result, said.calls))
            # A turn is malformed once, however many of its calls are.
            self.malformed = before + (self.malformed > before)
        if self.turns >= self.limits.turns:
            return None
        cut = any(
            call.name == COMPACT.name and not text.startswith(WRONG) for call, text in results
        )
        return Reply(
            self.form.observed(results),
            keep=self.prompt_messages if cut and self.limits.compact else None,
            reward=self.limits.malformed * (self.malformed - before),
            state=f"{seed_of(*sorted(self.answered)):x}",
        )

    async def facts(self) -> Mapping[str, Any]:
        """What was answered and called; ``penalty`` is all that malformed turns earned."""
        return {
            "final": self.final,
            "calls": list(self.calls),
            "malformed": self.malformed,
            "errors": self.errors,
            "tolerated": self.tolerated,
            "turns": self.turns,
            "penalty": self.limits.malformed * self.malformed,
            "spent": self.final is None and self.turns >= self.limits.turns,
        }

    def _read(self, text: str) -> Said:
        said = self.form.read(text, self.known)
        self.tolerated += bool(said.tolerated and not said.fault)
        if said.tolerated and not self.limits.tolerant:
            return Said(fault=said.tolerated)
        if len(said.calls) > self.limits.calls:
            return Said(fault=f"a turn has at most {self.limits.calls} calls")
        return said

    async def _result(self, call: Call) -> tuple[Call, str]:
        """A call's observation, which is an error where there is none; both are counted."""
        tool, error, text = self.known.get(call.name), "", ""
        place = len(self.calls)
        row = {"name": call.name, "arguments": _plain(call.arguments)}
        self.calls.append(row)
        if tool is None:
            error = f"there is no tool {call.name!r}, but {', '.join(self.known)}"
        else:
            error = misfit(tool, call.arguments)
        if error:
            self.malformed += 1
        elif tool is not None:
            text, error = await self._called(tool, call.arguments)
            self.errors += bool(error)
            self.answered.add(json.dumps([row, text, error], sort_keys=True))
        text = f"{WRONG}{error}" if error else text
        self.calls[place] = row | {"error": error, "characters": len(text)}
        return call, shortened(text, self.limits.characters)

    async def _called(self, tool: Tool, arguments: Mapping[str, Any]) -> tuple[str, str]:
        """What a tool says, and "", or "" and why it says nothing."""
        try:
            return str(await within(tool.call(arguments), self.limits.seconds)), ""
        except ToolError as error:
            return "", str(error)
        except TimeoutError:
            return "", f"{tool.name} took more than {self.limits.seconds:g} seconds"
        except Exception as error:  # noqa: BLE001
            return "", f"{tool.name} failed: {type(error).__name__}: {error}"


def offered(tools: Sequence[Tool], limits: Limits = Limits()) -> list[Tool]:
    """An env's tools, and those that the play adds."""
    return [*tools, COMPACT] if limits.compact else [*tools]


def told(tools: Sequence[Tool], form: Form, limits: Limits = Limits()) -> str:
    """The text for a prompt: which tools there are, and how to call them; "" in terse form."""
    return form.instructions(offered(tools, limits))


@asynccontextmanager
async def playing(
    tools: Sequence[Tool], form: Form, limits: Limits, problem: Problem
) -> AsyncIterator[ToolPlay]:
    """A play of a problem; what the tools own is closed by whoever opened it."""
    yield ToolPlay(tools, form, limits, len(problem.messages) or 1)


def shortened(text: str, most: int) -> str:
    """A text's first ``most`` characters, and a note of what is left out."""
    if len(text) <= most:
        return text
    return f"{text[:most]}\n[cut: {len(text) - most} of {len(text)} characters are left out]"


async def within(work: Coroutine[Any, Any, str], seconds: float) -> str:
    """What work gives; TimeoutError after so long, also where it does not let itself be cancelled,
    for whose end ``asyncio.wait_for`` would wait."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        task.add_done_callback(_looked_at)
        task.cancel()


def _looked_at(task: asyncio.Task[str]) -> None:
    """Take note of what became of a task that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


def _plain(arguments: Mapping[str, Any]) -> Any:
    """As JSON has them."""
    return json.loads(json.dumps(dict(arguments) if arguments is not NOTHING else {}, default=str))
