"""Calls in as few characters as there can be, for ladder models: ``head data 3``, or ``=42``.

A line each, which the problem's stop string (a new line) ends, words parted by one space, in the
order of the tool's parameters; a string that comes last may have spaces. What came back is a line,
too, ``!`` where that is an error: such models read no explanation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upslope.tools import WRONG, Call, Said, Tool
from upslope.tools.schema import meant, named
from upslope.types import Message

ANSWER = "="
LONGEST = 2_000  # characters of a call


@dataclass(frozen=True)
class Terse:
    """One call a turn."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        """None: ladder models learn from demonstrations alone."""
        return ""

    def read(self, reply: str, tools: Mapping[str, Tool]) -> Said:
        """A line: an answer after ``=``, else a tool's name and its arguments."""
        line = reply.strip()
        tolerated = "" if line == reply else "there are spaces around the line"
        if line.startswith(ANSWER):
            return Said(final=line[1:], tolerated=tolerated)
        if len(line) > LONGEST:
            return Said(fault=f"a call has at most {LONGEST} characters")
        if not line:
            return Said(fault="the line is empty")
        name, _, rest = line.partition(" ")
        if name not in tools:
            return Said((Call(name),), tolerated=tolerated)
        return _call(tools[name], rest, tolerated)

    def write(self, said: Said) -> str:
        """A line without its end, arguments in the order given; ValueError for anything else."""
        if said.final is not None:
            return f"{ANSWER}{said.final}"
        if len(said.calls) != 1:
            raise ValueError("a line has one call or an answer")
        (call,) = said.calls
        return " ".join([call.name, *map(_word, call.arguments.values())])

    def observed(self, results: Sequence[tuple[Call, str]]) -> tuple[Message, ...]:
        """Its line, as raw text."""
        lines = ("!" if text.startswith(WRONG) else text for _, text in results)
        return ({"role": "user", "content": "".join(f"{line}\n" for line in lines)},)


def _call(tool: Tool, rest: str, tolerated: str) -> Said:
    names = named(tool)
    if rest and not names:
        return Said(fault=f"{tool.name} takes no arguments")
    words = rest.split(" ", len(names) - 1) if rest else []
    if "" in words:
        words, tolerated = rest.split(None, len(names) - 1), "words are parted by several spaces"
    given = zip(names, words, strict=False)
    arguments = {name: meant(tool, name, word) for name, word in given}
    return Said((Call(tool.name, arguments),), tolerated=tolerated)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
