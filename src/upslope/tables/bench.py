"""What can be asked of a workbook: sheets, ranges, text, columns, SQL, formulas. All of it reads.

One of these serves all plays of a problem: nothing changes but that its database is made when the
first query comes. Errors are raised as ``ToolError``, which the policy observes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from upslope.tables.book import Book, MissingError, Sheet, Value, told
from upslope.tables.columns import Table, table_of
from upslope.tables.formulas import evaluated, worked_out
from upslope.tables.references import Area, Place, area_of, areas_of, letters, named, spelt
from upslope.tables.sql import Database, QueryError
from upslope.tables.syntax import FormulaError
from upslope.tools import ToolError

FOUND, SHOWN, READ = (
    20,
    20,
    400,
)  # cells that a search names, rows that head shows, cells of a range


@dataclass(frozen=True)
class Bench:
    """A workbook on which tools work."""

    book: Book

    @cached_property
    def database(self) -> Database:
        """Its tables, for SQL."""
        return Database(self.book)

    def list_sheets(self) -> str:
        """Each sheet that is shown, its size and columns; then the named ranges."""
        lines = []
        for sheet in self.book.shown:
            titles = ", ".join(_titled(table_of(sheet)))
            lines.append(f"{sheet.name}: {sheet.rows} rows, {sheet.columns} columns: {titles}")
        names = [
            f"{name} = {where}" for name, where in self.book.names.items() if self._open(where)
        ]
        return "\n".join([*lines, *names]) or "the workbook is empty"

    def head(self, sheet: str, n: int = 5) -> str:
        """The first rows of a sheet, at most 20."""
        one = self._sheet(sheet)
        if not one.rows:
            return "the sheet is empty"
        return "\n".join(_grid(one, Area("", 1, 1, min(one.rows, n, SHOWN), one.columns)))

    def read_range(self, reference: str) -> str:
        """The cells of a range, its columns' letters above and its rows' numbers before them."""
        one, area = self._area(reference)
        cut = area.within(max(1, one.rows), max(1, one.columns))
        if cut.size > READ:
            raise ToolError(f"{reference} has {cut.size} cells: read at most {READ} at once")
        return "\n".join(_grid(one, cut))

    def values(self, references: str) -> str:
        """The values of cells and ranges parted by spaces, and nothing else."""
        said: list[str] = []
        for reference in references.replace(",", " ").split():
            one, area = self._area(reference)
            cut = area.within(max(1, one.rows), max(1, one.columns))
            if len(said) + cut.size > READ:
                raise ToolError(f"read at most {READ} cells at once")
            said += [told(one.cells.get(place)) or "-" for place in cut.places()]
        if not said:
            raise ToolError("name a cell")
        return " ".join(said)

    def find(self, text: str) -> str:
        """The cells that have a text, whatever its case, each with its value."""
        found = [f"{spelt(s.name, area)}: {told(value)}" for s, area, value in self._with(text)]
        if not found:
            return "nothing found"
        more = f"\nand {len(found) - FOUND} more" if len(found) > FOUND else ""
        return "\n".join(found[:FOUND]) + more

    def spots(self, text: str) -> str:
        """The cells of the first sheet that are just this text, and ``-`` where none is."""
        wanted = text.strip().casefold()
        sheet = self._sheet("")
        places = [p for p, value in sheet.cells.items() if told(value).casefold() == wanted]
        return " ".join(named(place) for place in sorted(places)[:FOUND]) or "-"

    def describe(self, sheet: str, column: str) -> str:
        """How a column's values are: how many, of which kind, from where to where, which often."""
        table = table_of(self._sheet(sheet))
        at = table.column(column)
        if not at:
            raise ToolError(f"no column {column!r}: there are {', '.join(_titled(table))}")
        pairs = [(number, values[at - table.left]) for number, values in table.rows()]
        values = [value for _, value in pairs if value is not None]
        title = table.titles[at - table.left]
        lines = [
            f"{title}: column {letters(at)}, rows {table.first} to {table.last}",
            f"{len(values)} values, {len(pairs) - len(values)} blank, {len(set(values))} different",
        ]
        shapes = {table.sheet.formats.get((row, at), "General") for row, _ in pairs} - {"General"}
        if shapes:
            lines.append(f"shown as {', '.join(sorted(shapes))}")
        return "\n".join([*lines, *_ranged(values)])

    def sql(self, query: str) -> str:
        """What a SELECT gives: titles, then a line a row, at most 100."""
        try:
            titles, rows, more = self.database.query(query)
        except QueryError as error:
            raise ToolError(str(error)) from error
        lines = [" | ".join(map(_word, row)) for row in rows]
        note = ["[only the first 100 rows]"] if more else []
        return "\n".join([" | ".join(titles), *(lines or ["no rows"]), *note])

    def formula(self, formula: str, sheet: str = "") -> str:
        """What a formula comes to; an error as a spreadsheet shows it."""
        try:
            return told(evaluated(formula, self.book, self._sheet(sheet).name if sheet else ""))
        except (FormulaError, MissingError) as error:
            raise ToolError(str(error)) from error

    def calc(self, expression: str) -> str:
        """What arithmetic comes to."""
        try:
            value = worked_out(expression)
        except FormulaError as error:
            raise ToolError(str(error)) from error
        if isinstance(value, str) and value.startswith("#"):
            raise ToolError(value)
        return told(value)

    def _sheet(self, name: str) -> Sheet:
        try:
            return self.book.sheet(name)
        except MissingError as error:
            raise ToolError(str(error)) from error

    def _area(self, reference: str) -> tuple[Sheet, Area]:
        """A reference's sheet and cells; a named range is one, too."""
        spelling = {name.casefold(): where for name, where in self.book.names.items()}
        try:
            area = area_of(spelling.get(reference.strip().casefold(), reference))
        except ValueError as error:
            raise ToolError(str(error)) from error
        return self._sheet(area.sheet), area

    def _open(self, reference: str) -> bool:
        """Whether a named range lies on a sheet that is shown."""
        return any(area_of(reference).sheet == sheet.name for sheet in self.book.shown)

    def _with(self, text: str) -> Iterator[tuple[Sheet, Area, Value]]:
        wanted = text.strip().casefold()
        if not wanted:
            raise ToolError("give a text to look for")
        for sheet, place, said in self._texts:
            if wanted in said:
                yield sheet, Area("", *place, *place), sheet.cells[place]

    @cached_property
    def _texts(self) -> list[tuple[Sheet, Place, str]]:
        """Every cell by rows, as it is searched: without case."""
        return [
            (sheet, place, told(sheet.cells[place]).casefold())
            for sheet in self.book.shown
            for place in sorted(sheet.cells)
        ]


def seen_cells(name: str, arguments: Mapping[str, object], book: Book) -> set[str]:
    """The cells that a call of ``read_range`` or ``head`` showed, each as Sheet!B3."""
    try:
        if name == "head":
            one = book.sheet(str(arguments.get("sheet", "")))
            rows = min(one.rows, int(str(arguments.get("n", 5))), SHOWN)
            areas = [Area(one.name, 1, 1, rows, one.columns)] if one.rows else []
        else:
            areas = areas_of(str(arguments.get("range", "")).replace(" ", ","))
    except (ValueError, MissingError):
        return set()
    return cells_of(areas, book)


def cells_of(areas: Sequence[Area], book: Book, most: int = 10_000) -> set[str]:
    """The cells of areas that lie on sheets that are shown, each as Sheet!B3."""
    out: set[str] = set()
    for area in areas:
        try:
            sheet = book.sheet(area.sheet)
        except MissingError:
            continue
        cut = area.within(max(1, sheet.rows), max(1, sheet.columns))
        if len(out) + cut.size > most:
            break
        out |= {f"{sheet.name}!{named(place)}" for place in cut.places()}
    return out


def _grid(sheet: Sheet, area: Area) -> Iterator[str]:
    columns = range(area.left, area.right + 1)
    yield "row | " + " | ".join(map(letters, columns))
    for row in range(area.top, area.bottom + 1):
        values = sheet.row(row, area.left, area.right)
        yield f"{row} | " + " | ".join(map(told, values))


def _titled(table: Table) -> list[str]:
    return [f"{letters(table.left + at)} {title}" for at, title in enumerate(table.titles)]


def _ranged(values: Sequence[Value]) -> Iterator[str]:
    """Least and greatest of numbers and of days, and the commonest texts."""
    figures = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    days = [v for v in values if isinstance(v, date)]
    texts = [v for v in values if isinstance(v, str)]
    if figures:
        yield f"numbers: {len(figures)}, from {told(min(figures))} to {told(max(figures))}"
    if days:
        ordered = sorted(days, key=str)
        yield f"dates: {len(days)}, from {told(ordered[0])} to {told(ordered[-1])}"
    if texts:
        counts: dict[str, int] = {}
        for text in texts:
            counts[text] = counts.get(text, 0) + 1
        often = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:8]
        yield "texts: " + ", ".join(f"{text} ({count})" for text, count in often)


def _word(value: object) -> str:
    return "" if value is None else told(value) if isinstance(value, int | float) else str(value)
