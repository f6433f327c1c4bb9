"""Tools and an env of tool plays, for tests of what calls, plays and demonstrates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from upslope.envs.arithmetic import Arithmetic
from upslope.tools import Call, Said, Tool, ToolError
from upslope.tools.play import FORMS, Limits, ToolPlay, playing, told
from upslope.types import Message, Problem, Reward, Split, Trajectory


def schema(required: Sequence[str] = (), **kinds: str) -> dict[str, Any]:
    """Of parameters with one type each."""
    properties = {name: {"type": kind} for name, kind in kinds.items()}
    return {"type": "object", "properties": properties, "required": [*required]}


@dataclass
class Made:
    """A tool from a function."""

    name: str
    does: Callable[..., Any]
    parameters: Mapping[str, Any] = field(default_factory=schema)
    description: str = "Does it."

    async def call(self, arguments: Mapping[str, Any]) -> str:
        said = self.does(**arguments)
        return str(await said if asyncio.iscoroutine(said) else said)


def fail(key: str) -> str:
    raise ToolError(f"nothing is named {key}")


def crash(key: str) -> str:
    raise KeyError(key)


async def hang() -> str:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:  # a tool that does not let itself be cancelled, the first time
        await asyncio.sleep(3600)
    return ""


READ = Made(
    "read",
    lambda sheet, rows=1: f"{sheet}:{rows}",
    schema(["sheet"], sheet="string", rows="integer"),
)
FIND = Made("find", lambda text: f"found {text}", schema(["text"], text="string"))
NOW = Made("now", lambda: "noon")
FAIL = Made("fail", fail, schema(["key"], key="string"))
CRASH = Made("crash", crash, schema(["key"], key="string"))
TOOLS = (READ, FIND, NOW)
KNOWN = {tool.name: tool for tool in TOOLS}


@dataclass(frozen=True)
class Boxes:
    """Which word is in a box: look into it, and say it. Boxes are named by letters."""

    form: str = "terse"
    turns: int = 4
    compact: bool = False

    def problems(self, split: Split) -> Sequence[Problem]:
        letters = {"train": "abcdef", "validation": "gh", "test": "ijk"}[split]
        return [self._problem(letter) for letter in letters]

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[ToolPlay]:
        async with playing(self._tools(problem), FORMS[self.form], self._limits, problem) as play:
            yield play

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        rewards = []
        for t in trajectories:
            right = float(t.facts.get("final") == problem.answer)
            rewards.append(Reward(right + t.facts.get("penalty", 0.0), {"correct": right}))
        return rewards

    def solved(self, problem: Problem) -> Sequence[str]:
        call = {"terse": f"look {problem.id}", "react": f'Action: look["{problem.id}"]'}
        final = {"terse": f"={problem.answer}", "react": f"Final: {problem.answer}"}
        return [call[self.form], final[self.form]]

    def plays(self, split: Split) -> Iterator[tuple[Problem, Sequence[str]]]:
        return ((problem, self.solved(problem)) for problem in self.problems(split))

    @property
    def _limits(self) -> Limits:
        return Limits(turns=self.turns, compact=self.compact)

    def _tools(self, problem: Problem) -> Sequence[Made]:
        look = lambda box: problem.answer if box == problem.id else "nothing"  # noqa: E731
        return [Made("look", look, schema(["box"], box="string"))]

    def _problem(self, letter: str) -> Problem:
        answer = letter * 3
        solution = f"={answer}" if self.form == "terse" else f"Final: {answer}"
        if self.form == "terse":
            return Problem(
                letter, prompt=f"{letter}?\n", stop=("\n",), answer=answer, solution=solution
            )
        tools = self._tools(Problem(letter, prompt="?"))
        text = f"What is in box {letter}? {told(tools, FORMS[self.form])}"
        asked = ({"role": "user", "content": text},)
        return Problem(letter, asked, answer=answer, solution=solution)


class Whatever:
    """A form that takes any reply for a call, as no policy of a test says one."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        return ""

    def read(self, reply: str, tools: Mapping[str, Tool]) -> Said:
        return Said(calls=(Call("now"),))

    def write(self, said: Said) -> str:
        return ""

    def observed(self, results: Sequence[tuple[Call, str]]) -> tuple[Message, ...]:
        return tuple({"role": "user", "content": text} for _, text in results)


@dataclass(frozen=True)
class Asker:
    """Additions whose every reply, but the last of its turns, is a call."""

    def problems(self, split: Split) -> Sequence[Problem]:
        return Arithmetic(digits=1).problems(split)

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[ToolPlay]:
        async with playing([NOW], Whatever(), Limits(turns=2), problem) as play:
            yield play

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [Reward(float(i % 2)) for i, _ in enumerate(trajectories)]
