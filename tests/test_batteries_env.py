"""The env battery passes on every env, and catches what is seeded into a right one."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from upslope.batteries import check_env
from upslope.batteries.env import GARBAGE
from upslope.components import build, find
from upslope.envs import ENVS
from upslope.envs.episodes import single_turn
from upslope.rewards.numeric import exact_number
from upslope.sandbox import offered
from upslope.types import Problem, Reply, Reward, Split, UserError

SMALL = {"train": 30, "test": 10}


# What needs a corpus, an agent or a server passes it in its own file.
ELSEWHERE = {"agent": "env_agent", "openenv": "env_openenv", "retrieval": "env_retrieval"}


def test_what_passes_elsewhere_is_asked_there():
    for file in ELSEWHERE.values():
        assert "check_env(" in Path(__file__).with_name(f"test_{file}.py").read_text()


@pytest.mark.parametrize("name", [name for name in ENVS if name not in ELSEWHERE])
def test_every_env_passes(name, tmp_path):
    settings = {**SMALL, "name": "chain_sum"} if name == "reasoning_gym" else SMALL
    if name == "math":
        settings = {"path": str(quotients(tmp_path / "quotients.jsonl"))}
    if name == "workbooks":
        settings = {"path": str(items(tmp_path / "items.jsonl"))}
    if name == "code":
        path = str(multiples(tmp_path / "multiples.jsonl"))
        settings = {"path": path, "sandbox": offered().level}
    env = build(find(ENVS, name, "env"), settings, "env")
    proven = {proof.claim: proof.seen for proof in check_env(env, problems=2)}
    assert proven["solutions earn the most, empty replies do not"] == "6 of 6 problems have one"
    assert proven["rewards survive garbage"] == f"{len(GARBAGE)} kinds"


def items(path):
    """Questions over a table, enough for every split."""
    lines = [f"item{n},{n * 7}" for n in range(60)]
    path.with_name("items.csv").write_text("\n".join(["item,amount", *lines]))
    rows = [
        {"question": f"What is the amount of item{n}?", "answer": n * 7, "workbook": "items.csv"}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def multiples(path):
    """Functions in MBPP's form, enough for every split."""
    rows = [
        {
            "task_id": n,
            "text": f"Write a function to multiply a number by {n}.",
            "code": f"def times(x):\n    return {n} * x",
            "test_list": [f"assert times(2) == {2 * n}"],
        }
        for n in range(2, 100)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def quotients(path):
    """Questions in MATH's form, enough for every split."""
    rows = [
        {"problem": f"What is {n}/7?", "solution": rf"It is $\boxed{{\frac{{{n}}}{{7}}}}$."}
        for n in range(100)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["text", "chat"])
def test_arithmetic_passes_in_every_form(form):
    settings = {**SMALL, "form": form, "reverse": True, "operations": ["subtract", "multiply"]}
    check_env(build(find(ENVS, "arithmetic", "env"), settings, "env"), problems=1)


@dataclass(frozen=True)
class Right:
    """Whole numbers: say the next one. Every fault below is one change to this."""

    first: int = 0

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        start = self.first + {"train": 0, "validation": 10, "test": 20}[split]
        return [self.problem(n) for n in range(start, start + 10)]

    def problem(self, n: int) -> Problem:
        return Problem(f"after {n}", prompt=f"{n}, ", answer=str(n + 1), solution=str(n + 1))

    async def rewards(self, problem: Problem, trajectories: Sequence[Any]) -> Sequence[Reward]:
        return [self.reward(problem, t.text) for t in trajectories]

    def reward(self, problem: Problem, text: str) -> Reward:
        return exact_number(text, problem.answer)


@dataclass(frozen=True)
class SameIds(Right):
    def problem(self, n: int) -> Problem:
        return replace(super().problem(n), id=f"after {n % 7}")


@dataclass(frozen=True)
class OtherEachTime(Right):
    made = itertools.count()

    def problems(self, split: Split) -> Sequence[Problem]:
        return [self.problem(1000 * next(self.made) + n) for n in range(5)]


@dataclass(frozen=True)
class Leaks(Right):
    def problem(self, n: int) -> Problem:
        return replace(super().problem(n), prompt=f"{n % 15}, ", answer=str(n % 15 + 1))


@dataclass(frozen=True)
class NoTest(Right):
    def problems(self, split: Split) -> Sequence[Problem]:
        return [] if split == "test" else super().problems(split)


@dataclass(frozen=True)
class WrongGold(Right):
    def problem(self, n: int) -> Problem:
        return replace(super().problem(n), solution=str(n + 2))


@dataclass(frozen=True)
class UngradedGold(Right):
    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(0.0, valid=False, reason="no judge")


@dataclass(frozen=True)
class Inverted(Right):
    def reward(self, problem: Problem, text: str) -> Reward:
        right = super().reward(problem, text)
        return Reward(1 - right.total, right.parts)


@dataclass(frozen=True)
class LovesNaN(Right):
    """Adds up what is said, as some graders do."""

    def reward(self, problem: Problem, text: str) -> Reward:
        right = super().reward(problem, text)
        return Reward(2.0, right.parts) if text == "inf" else right


@dataclass(frozen=True)
class Drunk(Right):
    draws = itertools.count()

    def reward(self, problem: Problem, text: str) -> Reward:
        return replace(super().reward(problem, text), costs={"mood": float(next(self.draws))})


@dataclass(frozen=True)
class FirstIsBest(Right):
    """A reward that goes by a reply's place in its group."""

    async def rewards(self, problem: Problem, trajectories: Sequence[Any]) -> Sequence[Reward]:
        graded = await super().rewards(problem, trajectories)
        return [replace(r, parts={**r.parts, "place": float(i)}) for i, r in enumerate(graded)]


@dataclass(frozen=True)
class ConvertsDigits(Right):
    def reward(self, problem: Problem, text: str) -> Reward:
        said = int(text) if text.strip().isdigit() else None
        return Reward(float(said == int(problem.answer)))


@dataclass(frozen=True)
class GivesNaN(Right):
    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(float(text)) if text == "NaN" else super().reward(problem, text)


@dataclass(frozen=True)
class ProcessNaN(Right):
    def reward(self, problem: Problem, text: str) -> Reward:
        at = ((0, 1, float("nan")),) if len(text) > 10 else ()
        return replace(super().reward(problem, text), at=at)


@dataclass(frozen=True)
class Hangs(Right):
    async def rewards(self, problem: Problem, trajectories: Sequence[Any]) -> Sequence[Reward]:
        if any("boxed" in t.text for t in trajectories):
            await asyncio.sleep(3600)
        return await super().rewards(problem, trajectories)


@dataclass(frozen=True)
class Blocks(Right):
    """Computes for ever, where no timeout of asyncio would come."""

    def reward(self, problem: Problem, text: str) -> Reward:
        while "boxed" in text:
            pass
        return super().reward(problem, text)


@dataclass(frozen=True)
class NoReason(Right):
    def reward(self, problem: Problem, text: str) -> Reward:
        return super().reward(problem, text) if len(text) < 20 else Reward(0.0, valid=False)


@dataclass(frozen=True)
class TooFew(Right):
    async def rewards(self, problem: Problem, trajectories: Sequence[Any]) -> Sequence[Reward]:
        return (await super().rewards(problem, trajectories))[:1]


ENV_FAULTS = [
    (SameIds(), "gives the id 'after 0' to two problems"),
    (OtherEachTime(), "other problems, or another order"),
    (Leaks(), "in validation and in train"),
    (NoTest(), "no problems in its test split"),
    (WrongGold(), "graded 0 for correctness instead of 1"),
    (UngradedGold(), "could not be graded: no judge"),
    (Inverted(), "the reward is wrong, or inverted"),
    (LovesNaN(), "some garbage 2"),
    (Drunk(), "must be deterministic"),
    (FirstIsBest(), "must be deterministic"),
    (ConvertsDigits(), "a megabyte of digits: .* raised ValueError"),
    (GivesNaN(), "not finite"),
    (ProcessNaN(), "process reward that is not finite"),
    (Hangs(), "nested commands: .* took more than 0.3 s"),
    (Blocks(), "nested commands: .* took more than 0.3 s"),
    (NoReason(), "invalid reward without a reason"),
    (TooFew(), "returned 1 rewards for 5"),
]


def test_the_env_that_faults_are_seeded_into_passes():
    assert len(check_env(Right(), problems=1)) == 7


@pytest.mark.parametrize(("env", "said"), ENV_FAULTS, ids=lambda x: type(x).__name__)
def test_a_fault_in_an_env_is_named(env, said):
    bounded = type(env) in (Hangs, Blocks)
    with pytest.raises(UserError, match=said):
        check_env(env, problems=1, seconds=0.3 if bounded else 10.0)


@dataclass(frozen=True)
class TwoTurns(Right):
    """Asks twice, and grades by what its episode remembers."""

    async def rewards(self, problem: Problem, trajectories: Sequence[Any]) -> Sequence[Reward]:
        return [exact_number(t.facts["second"], problem.answer) for t in trajectories]

    @asynccontextmanager
    async def play(self, problem: Problem) -> Any:
        yield Remembers()


class Remembers:
    def __init__(self) -> None:
        self.said: list[str] = []

    async def reply(self, messages: Sequence[Any]) -> Reply | None:
        self.said.append(messages[-1]["content"])
        again = ({"role": "raw", "content": "again: "},)
        return Reply(again, keep=1) if len(self.said) < 2 else None

    async def facts(self) -> Any:
        return {"second": self.said[1]}


def test_an_env_of_several_turns_is_played_to_its_end():
    check_env(TwoTurns(), problems=1)
