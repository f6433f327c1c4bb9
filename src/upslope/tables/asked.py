"""A question over a workbook, its gold answer from the records that the workbook was made of, and
two plays of it: one that reads what the answer rests on, and one of somebody in a hurry."""

from __future__ import annotations

from dataclasses import dataclass

from upslope.tables.book import Book
from upslope.tools import Call


@dataclass(frozen=True)
class Question:
    """``gold``: values, none of which where the workbook does not say. ``cells``: what the answer
    rests on, each as Sheet!B3. ``sql``: the same asked of the workbook's tables, for a second
    opinion; "" where there is nothing to ask.
    """

    kind: str
    text: str
    book: Book
    gold: tuple[str, ...]
    cells: frozenset[str] = frozenset()
    sql: str = ""
    calls: tuple[Call, ...] = ()
    hurried: tuple[Call, ...] = ()
    guess: str = ""
