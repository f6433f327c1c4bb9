"""A sheet as a table: where its header is, how its columns are called, where its rows are.

A heading above the table and notes below it are no rows. A header of two rows, the upper one with
merged cells, gives names such as ``2023 Q1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from upslope.tables.book import Sheet, Value, told
from upslope.tables.references import letters

LOOKED_AT = 20  # first rows that a header is looked for in


@dataclass(frozen=True)
class Table:
    """``titles`` of the columns from ``left``; data from row ``first`` to ``last``."""

    sheet: Sheet
    titles: tuple[str, ...]
    left: int
    header: int
    first: int
    last: int

    def rows(self) -> Iterator[tuple[int, list[Value]]]:
        """Each row that is not blank, with its number in the sheet."""
        right = self.left + len(self.titles) - 1
        for number in range(self.first, self.last + 1):
            values = self.sheet.row(number, self.left, right)
            if any(value is not None for value in values):
                yield number, values

    def column(self, name: str) -> int:
        """The sheet's column with a title or letter, whatever its case; 0 where none is."""
        wanted = name.strip().casefold()
        for at, title in enumerate(self.titles):
            if title.casefold() == wanted:
                return self.left + at
        for at in range(len(self.titles)):
            if letters(self.left + at).casefold() == wanted:
                return self.left + at
        return 0


def table_of(sheet: Sheet) -> Table:
    """The sheet's table; one without columns where the sheet is empty."""
    filled = sorted({column for _, column in sheet.cells})
    if not filled:
        return Table(sheet, (), 1, 1, 1, 0)
    left, right = filled[0], filled[-1]
    header = _header(sheet, left, right)
    wide = [a for a in sheet.merged if a.top == header == a.bottom and a.right > a.left]
    depth = 2 if wide and header < sheet.rows else 1
    titles: list[str] = []
    for column in range(left, right + 1):
        said = [told(sheet.spread.get((header + at, column))) for at in range(depth)]
        title = " ".join(dict.fromkeys(word.strip() for word in said if word.strip()))
        titles.append(_free(title or letters(column), titles))
    return Table(sheet, tuple(titles), left, header, header + depth, sheet.rows)


def _header(sheet: Sheet, left: int, right: int) -> int:
    """The first row with two cells of its own, or as many as there are columns."""
    for row in range(1, min(sheet.rows, LOOKED_AT) + 1):
        filled = sum(value is not None for value in sheet.row(row, left, right))
        if filled >= min(2, right - left + 1):
            return row
    return next(row for row, _ in sorted(sheet.cells))


def _free(title: str, taken: list[str]) -> str:
    """A title that no column before it has."""
    known = {name.casefold() for name in taken} | {"row"}
    free, count = title, 2
    while free.casefold() in known:
        free = f"{title}_{count}"
        count += 1
    return free
