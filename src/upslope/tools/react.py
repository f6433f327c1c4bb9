"""Calls as ReAct text (arXiv:2210.03629): thoughts, one action a turn, and a final answer.

``Action: tool[name="value", n=3]``, its arguments JSON values by name or in the schema's order, or
``Final: answer``. What lies before is thought, and is not read. What models write instead is read
as it was meant where there is no doubt, and named in ``Said.tolerated``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upslope.tools import Call, Said, Tool
from upslope.tools.schema import begun, meant, named, placed, signature
from upslope.tools.thoughts import unthought
from upslope.types import Message

MARK = re.compile(
    r"^[ \t*#>-]*(thought|action|observation|final(?: answer)?|answer)[ \t*]*:[ \t*]*",
    re.IGNORECASE | re.MULTILINE,
)
NAMED = re.compile(r"\s*([\w.-]+)[ \t]*([\[(])")
ARGUMENT = re.compile(r"\s*(?:([\w.-]+)\s*=\s*)?")
AFTER = re.compile(r"\s*([,\])])")
CLOSED = {"[": "]", "(": ")"}
LONGEST = 20_000  # characters of a call


class UnreadError(ValueError):
    """Arguments that are not written as they should be."""


@dataclass(frozen=True)
class React:
    """One call a turn."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        """The format, and a line for each tool."""
        listed = "\n".join(f"{signature(tool, '[', ']')}: {tool.description}" for tool in tools)
        return (
            "In each turn think in one line that begins with Thought:, and then either call a "
            "tool, as in\nAction: tool[name=value, other=value]\nwith values as JSON, and stop, or "
            f"answer, as in\nFinal: your answer\nThe tools are:\n{listed}"
        )

    def read(self, reply: str, tools: Mapping[str, Tool]) -> Said:
        """The first action or final answer of a reply."""
        text = unthought(reply)
        marks = [*MARK.finditer(text)]
        kinds = [mark[1].lower() for mark in marks]
        first = next((i for i, kind in enumerate(kinds) if kind not in ("thought",)), None)
        if first is None:
            return Said(fault='there is neither "Action: tool[...]" nor "Final: answer"')
        if kinds[first] == "observation":
            return Said(fault="it made up an observation before any action")
        mark = marks[first]
        plain = mark[0].strip() in ("Action:", "Final:")
        tolerated = "" if plain else "its action or answer is marked in another way"
        if kinds[first] != "action":
            return Said(final=text[mark.end() :].strip(), tolerated=tolerated)
        end = marks[first + 1].start() if first + 1 < len(marks) else len(text)
        return _action(text[mark.end() :], end - mark.end(), tools, tolerated)

    def write(self, said: Said) -> str:
        """One action or a final answer; ValueError for anything else."""
        if said.final is not None:
            return f"Final: {said.final}"
        if len(said.calls) != 1:
            raise ValueError("ReAct has one call or a final answer in each turn")
        (call,) = said.calls
        listed = ", ".join(f"{name}={_json(value)}" for name, value in call.arguments.items())
        return f"Action: {call.name}[{listed}]"

    def observed(self, results: Sequence[tuple[Call, str]]) -> tuple[Message, ...]:
        """What was observed, as the next message to the policy."""
        text = "\n".join(f"Observation: {text}" for _, text in results)
        return ({"role": "user", "content": text},)


def _action(text: str, end: int, tools: Mapping[str, Tool], tolerated: str) -> Said:
    """The call that ``text`` begins with; the next mark is at ``end``."""
    head = NAMED.match(text, 0, end)
    if head is None:
        return Said(fault="an action is written as tool[name=value]")
    name, opened = head[1], head[2]
    tool = tools.get(name)
    if tool is None:
        return Said((Call(name),), tolerated=tolerated)
    if opened != "[":
        tolerated = "its arguments are in other brackets"
    try:
        arguments, stop = _arguments(text[: head.end() + LONGEST], head.end(), opened, tool)
    except UnreadError:
        # To the last bracket before what comes next; quotes and brackets within may not match.
        body = text[head.end() : min(end, head.end() + LONGEST)]
        stop = body.rfind(CLOSED[opened])
        if stop < 0:
            return Said(fault=f"the call of {name} does not end: write {name}[...]")
        words, stop = body[:stop], head.end() + stop + 1
        try:
            arguments, tolerated = _plain(tool, words), "an argument is no JSON value"
        except ValueError as error:
            return Said(fault=str(error))
    except ValueError as error:
        return Said(fault=str(error))
    if text[stop:].strip():
        tolerated = "it went on after its action"
    return Said((Call(name, arguments),), tolerated=tolerated)


def _arguments(text: str, at: int, opened: str, tool: Tool) -> tuple[dict[str, Any], int]:
    """JSON values up to the closing bracket, and where that ends; else UnreadError."""
    values, arguments = list[Any](), dict[str, Any]()
    if (empty := AFTER.match(text, at)) and empty[1] == CLOSED[opened]:
        return {}, empty.end()
    while True:
        named_as = ARGUMENT.match(text, at)
        assert named_as is not None  # it matches nothing, too
        try:
            value, at = begun(text, named_as.end())
        except ValueError as error:
            raise UnreadError from error
        if named_as[1]:
            arguments[named_as[1]] = value
        else:
            values.append(value)
        after = AFTER.match(text, at)
        if after is None or after[1] not in (",", CLOSED[opened]):
            raise UnreadError
        at = after.end()
        if after[1] != ",":
            return {**placed(tool, values), **arguments}, at


def _plain(tool: Tool, words: str) -> dict[str, Any]:
    """Words without quotes: one argument for a tool of one, else parted by commas."""
    names = named(tool)
    listed = [words] if len(names) == 1 else words.split(",")
    arguments, bare = dict[str, Any](), list[str]()
    for one in listed:
        key, equals, value = one.partition("=")
        if equals and key.strip() in names:
            arguments[key.strip()] = meant(tool, key.strip(), _unquoted(value))
        else:
            bare.append(_unquoted(one))
    given = placed(tool, bare)
    return {**{name: meant(tool, name, word) for name, word in given.items()}, **arguments}


def _unquoted(word: str) -> str:
    word = word.strip()
    quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "\"'"
    return word[1:-1] if quoted else word


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
