"""Questions over made workbooks that are read by calling tools; gold answers are the records'.

A ladder model (``form = "terse"``) reads tiny workbooks with three tools of a letter: ``f`` finds
cells, ``r`` reads them, ``c`` calculates, ``=17`` answers. A chat model reads whole ones. Your own
workbooks and WikiTableQuestions are ``workbooks.py``'s.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from upslope.rewards.denotation import joined
from upslope.seeds import seed_of, split_of
from upslope.tables import made, tiny
from upslope.tables.asked import Question
from upslope.tables.bench import Bench
from upslope.tables.scoring import ASKED, Scoring
from upslope.tables.tools import read_only, short
from upslope.tools import Call, Said, Tool
from upslope.tools.play import FORMS, Limits, playing, told
from upslope.types import Episode, Problem, Reward, Split, Trajectory, UserError

STOP = ("\n",)
DRAWS = 40  # for each problem that a split should hold, before its questions count as exhausted
Size = Literal["tiny", "full"]
Form = Literal["terse", "react", "json"]


@dataclass(frozen=True)
class Spreadsheet:
    """``form``: how calls are written. ``kinds`` of questions, between spaces; "" is all.

    ``wrong``: the share of demonstrated plays that are hurried and end wrong. ``region``: what the
    right cells earn at most; ``turn``: what each turn of a right answer costs; ``passing``: what
    passing earns where the workbook does say; ``malformed``: what a turn earns that cannot be read.
    """

    form: Form = "terse"
    kinds: str = ""
    wrong: float = 0.0
    region: float = 0.2
    turn: float = 0.01
    passing: float = -1.0
    malformed: float = -0.02
    turns: int = 8
    characters: int = 2000
    train: int = 4000
    test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        known = tiny.KINDS if self.size == "tiny" else made.KINDS
        strange = [kind for kind in self.kinds.split() if kind not in known]
        if strange:
            raise UserError(f"kinds has {strange[0]!r}: choose from {', '.join(known)}")
        if not 0 <= self.wrong <= 1:
            raise UserError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if self.region < 0 or self.turn < 0 or self.passing > 0 or self.malformed > 0:
            raise UserError("region and turn must not be below 0, passing and malformed not above")
        if self.turn * self.turns >= 1:
            raise UserError(
                "turn times turns must stay below 1, or no right answer is worth giving"
            )
        if self.train < 1 or self.test < 1:
            raise UserError("train and test are numbers of problems: set each to at least 1")

    @property
    def size(self) -> Size:
        """Of its workbooks."""
        return "tiny" if self.form == "terse" else "full"

    def problems(self, split: Split) -> Sequence[Problem]:
        """Questions of this split by a hash of what is asked; workbooks differ, words may not."""
        wanted = self.train if split == "train" else self.test
        found: list[Problem] = []
        for number in range(DRAWS * (self.train + 2 * self.test)):
            question = self._question(number)
            if split_of(" ".join(question.text.lower().split())) == split:
                found.append(self._problem(number, question))
            if len(found) == wanted:
                return found
        key = "train" if split == "train" else "test"
        raise UserError(f"there are {len(found)} {split} questions, not {wanted}: lower {key}")

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Episode]:
        """A play with the workbook's tools."""
        bench = self._bench(problem)
        limits = Limits(self.turns, self.characters, malformed=self.malformed)
        async with playing(self._tools(bench), FORMS[self.form], limits, problem) as episode:
            yield episode

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Parts: ``correct``, ``region_f1``, ``region_recall``, ``passed``, ``peeked``."""
        question = self._question(problem.info["number"])
        scoring = Scoring(self.region, self.turn, self.passing)
        return [
            scoring.reward(t.facts, question.gold, question.cells, question.book)
            for t in trajectories
        ]

    def solved(self, problem: Problem) -> Sequence[str]:
        """The replies of a play that reads what the answer rests on."""
        question = self._question(problem.info["number"])
        return self._written(question.calls, self._answer(question))

    def plays(self, split: Split) -> Iterator[tuple[Problem, Sequence[str]]]:
        """Each problem with such a play or, for a share ``wrong``, with a hurried one."""
        for problem in self.problems(split):
            question = self._question(problem.info["number"])
            slips = random.Random(seed_of(self.seed, "wrong", problem.id)).random() < self.wrong
            if slips:
                yield problem, self._written(question.hurried, question.guess)
            else:
                yield problem, self.solved(problem)

    def _question(self, number: int) -> Question:
        return _asked(self.size, self.seed, self.kinds, number)

    def _bench(self, problem: Problem) -> Bench:
        return _laid(self.size, self.seed, self.kinds, int(problem.info["number"]))

    def _tools(self, bench: Bench) -> list[Tool]:
        return short(bench) if self.size == "tiny" else read_only(bench)

    def _answer(self, question: Question) -> str:
        """What a right final answer says."""
        if not question.gold:
            return "?" if self.size == "tiny" else "unknown"
        if self.size == "tiny" or not question.cells:
            return joined(question.gold)
        return f"{joined(question.gold)} @ {', '.join(sorted(question.cells))}"

    def _written(self, calls: Sequence[Call], answer: str) -> list[str]:
        form = FORMS[self.form]
        said = [*(Said((call,)) for call in calls), Said(final=answer)]
        return [form.write(one) for one in said]

    def _problem(self, number: int, question: Question) -> Problem:
        name = f"{self.size}-{self.seed}-{number}"
        gold = joined(question.gold) or "unknown"
        solution = FORMS[self.form].write(Said(final=self._answer(question)))
        info = {"number": number, "kind": question.kind}
        if self.size == "tiny":
            return Problem(name, (), question.text, STOP, gold, solution, info)
        tools = told(self._tools(Bench(question.book)), FORMS[self.form])
        asked = {"role": "user", "content": f"{question.text}\n\n{ASKED}\n\n{tools}"}
        return Problem(name, (asked,), answer=gold, solution=solution, info=info)


@lru_cache(maxsize=1024)
def _asked(size: Size, seed: int, kinds: str, number: int) -> Question:
    if size == "tiny":
        return tiny.asked(seed, kinds.split() or tiny.KINDS, number)
    return made.asked(seed, kinds.split() or made.KINDS, number)


@lru_cache(maxsize=64)
def _laid(size: Size, seed: int, kinds: str, number: int) -> Bench:
    """A question's workbook with its database, which the plays of a group share."""
    return Bench(_asked(size, seed, kinds, number).book)
