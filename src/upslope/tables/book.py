"""A workbook in memory: sheets of values, with their formulas, merged areas and number formats.

Plain records that never change, so that all plays of a problem share one. Hidden sheets are kept,
and found by nobody who asks for a sheet by its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property

from upslope.tables.references import Area, Place

Value = str | int | float | bool | date | datetime | None
ERRORS = frozenset(
    ("#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#CYCLE!", "#SPILL!")
)
FIGURES = 12  # of a number that was computed: 0.1 + 0.2 is shown as 0.3


class MissingError(Exception):
    """What was asked for is not in the workbook; its text says what there is."""


@dataclass(frozen=True)
class Sheet:
    """``cells`` has what is not blank: the values of formulas, too, which ``formulas`` spells."""

    name: str
    cells: Mapping[Place, Value]
    formulas: Mapping[Place, str] = field(default_factory=dict)
    merged: tuple[Area, ...] = ()
    formats: Mapping[Place, str] = field(default_factory=dict)
    hidden: bool = False

    @cached_property
    def rows(self) -> int:
        """The last row that is not blank; 0 where all are."""
        return max((row for row, _ in (*self.cells, *self.formulas)), default=0)

    @cached_property
    def columns(self) -> int:
        """The last column that is not blank; 0 where all are."""
        return max((column for _, column in (*self.cells, *self.formulas)), default=0)

    def row(self, number: int, first: int = 1, last: int = 0) -> list[Value]:
        """A row's values from one column to another, or to the last."""
        columns = range(first, (last or self.columns) + 1)
        return [self.cells.get((number, column)) for column in columns]

    @cached_property
    def spread(self) -> Mapping[Place, Value]:
        """The cells, with a merged area's value in each of its cells."""
        out = dict(self.cells)
        for area in self.merged:
            value = self.cells.get((area.top, area.left))
            cut = area.within(self.rows, max(self.columns, area.left))
            if value is not None and cut.size <= 10_000:
                out |= dict.fromkeys(cut.places(), value)
        return out


@dataclass(frozen=True)
class Book:
    """Sheets by name, in order, and named ranges as references."""

    sheets: Mapping[str, Sheet]
    names: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def shown(self) -> tuple[Sheet, ...]:
        """The sheets that are not hidden."""
        return tuple(sheet for sheet in self.sheets.values() if not sheet.hidden)

    def sheet(self, name: str = "") -> Sheet:
        """By name, whatever its case; the first where none is named. MissingError where none is."""
        if not self.shown:
            raise MissingError("the workbook has no sheet")
        if not name:
            return self.shown[0]
        found = self._by_name.get(name.strip().casefold())
        if found is None:
            raise MissingError(
                f"no sheet {name!r}: there are {', '.join(s.name for s in self.shown)}"
            )
        return found

    @cached_property
    def _by_name(self) -> Mapping[str, Sheet]:
        return {sheet.name.casefold(): sheet for sheet in self.shown}

    def lines(self) -> Iterator[tuple[str, Place, Value]]:
        """Every cell of every shown sheet, by rows: for comparing two workbooks."""
        for sheet in self.shown:
            for place in sorted(sheet.cells):
                yield sheet.name, place, sheet.cells[place]


def told(value: Value) -> str:
    """A value as it is shown to whoever reads cells: dates as 2024-03-01, blank as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "#NUM!"
        whole = value.is_integer() and abs(value) < 1e15
        return str(int(value)) if whole else f"{value:.{FIGURES}g}"
    if isinstance(value, datetime):
        plain = value.time() == time()
        return value.date().isoformat() if plain else value.isoformat(" ", "seconds")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)
