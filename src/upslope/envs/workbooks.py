"""Questions over workbooks of your own, over WikiTableQuestions and over TabFact, read by tools.

A file of your own has a row for each question: ``question``, ``answer`` (a value, a list of them,
or null where the workbook does not say), ``workbook`` (an .xlsx or .csv beside the file), perhaps
``cells`` and ``id``. Every workbook is read before anything is trained.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from upslope.envs.datasets import Row as Line
from upslope.envs.datasets import read_rows
from upslope.rewards.denotation import checked, joined
from upslope.seeds import seed_of, split_of
from upslope.tables.bench import Bench, cells_of
from upslope.tables.book import Book
from upslope.tables.collections import FACTS, WIKI, Row, books_of, tabfact, tables_of, wikitables
from upslope.tables.references import areas_of
from upslope.tables.scoring import ASKED, RELATIVE, Scoring
from upslope.tables.tools import read_only
from upslope.tools import Said
from upslope.tools.play import FORMS, Limits, playing, told
from upslope.types import Episode, Problem, Reward, Split, Trajectory, UserError

OVERVIEW = 1000  # characters of what a prompt says of the sheets
Data = Literal["own", "wikitables", "tabfact"]


@dataclass(frozen=True)
class Workbooks:
    """``path``: a file of questions, or with ``data`` the folder of a data set.

    The rest is as in ``spreadsheet``; ``region`` counts where a row names its cells. A question's
    split is its table's in a data set, its own in a file.
    """

    path: str
    data: Data = "own"
    form: Literal["react", "json"] = "react"
    region: float = 0.0
    turn: float = 0.01
    passing: float = 0.0
    malformed: float = -0.02
    turns: int = 8
    characters: int = 2000

    def __post_init__(self) -> None:
        if not Path(self.path).exists():
            raise UserError(f"path names {self.path}, which does not exist")
        if self.region < 0 or self.turn < 0 or self.passing > 0 or self.malformed > 0:
            raise UserError("region and turn must not be below 0, passing and malformed not above")
        if self.turn * self.turns >= 1:
            raise UserError(
                "turn times turns must stay below 1, or no right answer is worth giving"
            )

    def problems(self, split: Split) -> Sequence[Problem]:
        """The split's questions in the order of the file."""
        rows, books = _held(self.path, self.data)
        return [self._problem(row, books[row.table]) for row in rows if self._home(row) == split]

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Episode]:
        """A play with the workbook's tools."""
        bench = _bench(self.path, self.data, problem.info["table"])
        limits = Limits(self.turns, self.characters, malformed=self.malformed)
        async with playing(read_only(bench), FORMS[self.form], limits, problem) as episode:
            yield episode

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Parts: ``correct``, ``region_f1``, ``region_recall``, ``passed``, ``peeked``."""
        book = _held(self.path, self.data)[1][problem.info["table"]]
        relative = RELATIVE if self.data == "own" else 0.0
        scoring = Scoring(self.region, self.turn, self.passing, relative)
        cited = problem.info["cells"]
        cells = cells_of(areas_of(cited), book) if cited else set()
        return [scoring.reward(t.facts, problem.info["gold"], cells, book) for t in trajectories]

    def _home(self, row: Row) -> Split:
        return split_of(row.question if self.data == "own" else row.table)

    def _problem(self, row: Row, book: Book) -> Problem:
        bench = Bench(book)
        overview = bench.list_sheets()[:OVERVIEW]
        tools = told(read_only(bench), FORMS[self.form])
        asked = f"{row.question}\n\nThe workbook:\n{overview}\n\n{ASKED}\n\n{tools}"
        cited = f" @ {row.cells}" if row.cells else ""
        answer = f"{joined(row.gold)}{cited}" if row.gold else "unknown"
        solution = FORMS[self.form].write(Said(final=answer))
        info = {"table": row.table, "gold": row.gold, "cells": row.cells}
        message = {"role": "user", "content": asked}
        return Problem(row.id, (message,), "", (), joined(row.gold) or "unknown", solution, info)


@lru_cache(maxsize=8)
def _held(path: str, data: Data) -> tuple[list[Row], dict[str, Book]]:
    """All questions, and the tables that they are asked of; read once."""
    if data == "own":
        rows = [_own(line, Path(path).parent) for line in read_rows(path)]
        books = books_of([Path(row.table) for row in rows])
        for row in rows:
            _cited(row, books[row.table])
    else:
        rows = wikitables(Path(path)) if data == "wikitables" else tabfact(Path(path))
        dialect = WIKI if data == "wikitables" else FACTS
        books = tables_of(Path(path), [row.table for row in rows], dialect)
    seen: dict[str, None] = {}
    for row in rows:
        if row.id in seen:
            raise UserError(f"{path} has the id {row.id!r} twice: remove one of them")
        seen[row.id] = None
        if row.gold:
            checked(row.gold, f"{path}, question {row.id}")
    return rows, books


@lru_cache(maxsize=64)
def _bench(path: str, data: Data, table: str) -> Bench:
    """A table with its database, which the plays of a group share."""
    return Bench(_held(path, data)[1][table])


def _own(line: Line, folder: Path) -> Row:
    """A row of a file of one's own."""
    question, workbook = line.text("question").strip(), line.text("workbook")
    if "answer" not in line.fields:
        raise UserError(f'{line.where} has no "answer": give null where the workbook does not say')
    answer = line.fields["answer"]
    values = answer if isinstance(answer, list) else [] if answer is None else [answer]
    if not all(isinstance(value, str | int | float) for value in values):
        raise UserError(f'{line.where}: "answer" must be a text, a number, a list of them, or null')
    name = str(line.fields.get("id", f"{seed_of('question', question, workbook):016x}"))
    gold = tuple(str(value) for value in values)
    return Row(name, question, gold, str(folder / workbook), str(line.fields.get("cells") or ""))


def _cited(row: Row, book: Book) -> None:
    try:
        known = not row.cells or cells_of(areas_of(row.cells), book)
    except ValueError as error:
        raise UserError(f"question {row.id}: cells: {error}") from error
    if not known:
        raise UserError(f"question {row.id}: cells {row.cells!r} are on no sheet of {row.table}")
