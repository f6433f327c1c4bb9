"""Calls as JSON in tags, as chat models are taught them; several in one turn are made at once.

``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, which Qwen's, Hermes' and SmolLM's
templates have. A reply without any call is the final answer. What models write instead is read as
it was meant where there is no doubt, and named in ``Said.tolerated``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upslope.tools import Call, Said, Tool
from upslope.tools.schema import parsed
from upslope.tools.thoughts import unthought
from upslope.types import Message

OPEN, CLOSE = "<tool_call>", "</tool_call>"
ESCAPED = OPEN.replace("t", "\\u0074", 1)  # the same within a JSON string, and no tag
FENCED = re.compile(r"```(?:json|tool_call)?\s*\n(.*?)```", re.DOTALL)
LONGEST, LITERAL = 100_000, 2_000  # characters of a call; of one that is read as Python
MOST = 64  # calls that are read in one reply


class MisreadError(ValueError):
    """A call that cannot be read, and why."""


@dataclass(frozen=True)
class JsonCalls:
    """Any number of calls a turn."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        """The format, and the schema of each tool."""
        schemas = "\n".join(
            json.dumps(
                {"name": t.name, "description": t.description, "parameters": _plain(t.parameters)}
            )
            for t in tools
        )
        return (
            f"You may call tools. They are, as JSON schemas:\n<tools>\n{schemas}\n</tools>\n"
            f'Write each call as\n{OPEN}\n{{"name": "tool", "arguments": {{"name": "value"}}}}\n'
            f"{CLOSE}\nand stop; several calls in one turn are made at once. A reply without a "
            "call is your final answer."
        )

    def read(self, reply: str, tools: Mapping[str, Tool]) -> Said:
        """The calls of a reply, or all of it as the final answer."""
        text = unthought(reply).strip()
        try:
            if OPEN in text:
                return _tagged(text)
            return _untagged(text, tools) or (
                Said(final=text) if text else Said(fault="the reply is empty")
            )
        except MisreadError as error:
            return Said(fault=str(error))

    def write(self, said: Said) -> str:
        """Calls one after another, or the final answer; ValueError where there is neither."""
        if said.calls:
            return "\n".join(_written(call) for call in said.calls)
        if said.final is None:
            raise ValueError("there is neither a call nor a final answer to write")
        return said.final

    def observed(self, results: Sequence[tuple[Call, str]]) -> tuple[Message, ...]:
        """What each call gave, in the order of the calls, as templates render it."""
        text = "\n".join(f"<tool_response>\n{text}\n</tool_response>" for _, text in results)
        return ({"role": "user", "content": text},)


def _tagged(text: str) -> Said:
    """Everything between tags; thoughts before the first are not read."""
    calls, seen = list[Call](), list[str]()
    pieces = text.split(OPEN, MOST + 1)[1:]
    if len(pieces) > MOST:
        raise MisreadError(f"a reply has at most {MOST} calls")
    for number, piece in enumerate(pieces, 1):
        body, closed, after = piece.partition(CLOSE)
        given, how = _value(body)
        if not isinstance(given, Mapping):
            raise MisreadError(f"a call is a JSON object with a name and arguments, in {OPEN}")
        call, form = _call(given)
        calls.append(call)
        seen += [how, form]
        if not closed:
            seen.append(f"a call does not end in {CLOSE}")
        elif after.strip() and number == len(pieces):
            seen.append("it went on after its calls")
    return Said(tuple(calls), tolerated=next(filter(None, seen), ""))


def _untagged(text: str, tools: Mapping[str, Tool]) -> Said | None:
    """A reply that is a call of a known tool without tags, alone or fenced; None where it is none.

    An answer may be JSON, too, and is not taken for a call.
    """
    fenced = FENCED.search(text[:LONGEST]) if "```" in text else None
    body = fenced[1].strip() if fenced else text
    if body[:1] not in ("{", "[") or len(body) > LONGEST:
        return None
    try:
        given, _ = _value(body)
        listed = given if isinstance(given, list) else [given]
        calls = tuple(_call(one)[0] for one in listed if isinstance(one, Mapping))
    except MisreadError:
        return None
    if not calls or len(calls) != len(listed) or any(call.name not in tools for call in calls):
        return None
    return Said(calls, tolerated=f"a call is not in {OPEN}")


def _value(body: str) -> tuple[Any, str]:
    """A JSON value, or a Python literal in its place, and what was tolerated."""
    body = body.strip()
    if len(body) > LONGEST:
        raise MisreadError(f"a call has at most {LONGEST} characters")
    try:
        return parsed(body), ""
    except ValueError as error:
        reason = str(error)
    if len(body) <= LITERAL:
        try:
            given = ast.literal_eval(body)
            return parsed(json.dumps(given)), "a call is a Python literal"
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    raise MisreadError(f"a call is not JSON: {reason}")


def _call(given: Mapping[str, Any]) -> tuple[Call, str]:
    """From its object, and what was tolerated."""
    how = ""
    if isinstance(given.get("function"), Mapping):
        given, how = given["function"], "a call is in another object"
    name, arguments = given.get("name"), given.get("arguments")
    if not isinstance(name, str) or not name:
        raise MisreadError('a call needs a "name"')
    if "arguments" not in given:
        arguments, how = given.get("parameters", {}), 'a call has no "arguments"'
    if isinstance(arguments, str):
        (arguments, _), how = _value(arguments), "the arguments are a string"
    if not isinstance(arguments, Mapping):
        raise MisreadError('"arguments" of a call are a JSON object')
    return Call(name, arguments), how


def _written(call: Call) -> str:
    given = {"name": call.name, "arguments": _plain(call.arguments)}
    body = json.dumps(given, ensure_ascii=False).replace(CLOSE, "<\\/tool_call>")
    return f"{OPEN}\n{body.replace(OPEN, ESCAPED)}\n{CLOSE}"


def _plain(value: Any) -> Any:
    """A copy of plain dicts and lists, which is all that JSON writes."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
