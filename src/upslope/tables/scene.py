"""Made workbooks: records first, then the sheets that show them, as offices lay them out.

A main sheet with a heading, one or two header rows, units, dates, blanks, formulas and a row of
totals; a list of partners; a plan by quarters; an old year's sheet, notes, and a hidden draft whose
numbers differ. What is asked and what is right is ``made.py``'s, from the records alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from upslope.tables.book import Book, Sheet, Value
from upslope.tables.references import Area, Place, letters, spelt
from upslope.tables.themes import COUNTRIES, ENDS, PEOPLE, STARTS, THEMES, Theme

Record = Mapping[str, Value]
QUARTERS = ("Q1", "Q2", "Q3", "Q4")


@dataclass(frozen=True)
class Scene:
    """A workbook and what it was made of. ``titles``: the table's column names by role; ``places``:
    each record's row; ``columns``: each role's column; ``plan``: amounts by category and period."""

    theme: Theme
    book: Book
    records: Sequence[Record]
    partners: Sequence[Record]
    titles: Mapping[str, str]
    columns: Mapping[str, int]
    first: int
    plan: Mapping[str, Mapping[str, int]]
    planned: Mapping[tuple[str, str], str]

    def cells(self, role: str, rows: Sequence[int]) -> frozenset[str]:
        """The main sheet's cells of a role and records' numbers."""
        column = letters(self.columns[role])
        return frozenset(f"{self.theme.sheet}!{column}{self.first + row}" for row in rows)


@dataclass(frozen=True)
class Layout:
    """Where the main sheet's columns are, how they are called, how deep its header is."""

    order: Sequence[str]
    header: int
    depth: int
    price: str

    @property
    def first(self) -> int:
        """The first record's row."""
        return self.header + self.depth


def scene(draw: random.Random) -> Scene:
    """A workbook of this draw: always the same one."""
    theme = draw.choice(THEMES)
    partners = _partners(draw)
    count = draw.randint(8, 60)
    records = _records(draw, theme, [str(p["partner"]) for p in partners], count)
    middle = ["category", "partner", "day", "quantity", "price"]
    draw.shuffle(middle)
    heading = draw.random() < 0.5
    layout = Layout(
        ("key", *middle, "value"),
        3 if heading else 1,
        draw.choice((1, 2)),
        draw.choice(("EUR", "USD")),
    )
    main, titles = _main(theme, records, layout, heading, draw.random() < 0.7)
    plan = _plan(draw, theme)
    planned, cells = _planned(theme, plan)
    old = _main(theme, _records(draw, theme, [str(p["partner"]) for p in partners], 12), layout)[0]
    draft = replace(_redrawn(draw, main), name="Draft", hidden=True)
    notes = {(1, 1): "Notes", (2, 1): f"{theme.sheet} are kept by the back office."}
    sheets = [main, planned, replace(old, name=f"{theme.sheet} 2019"), _listed(theme, partners)]
    sheets += [draft, Sheet("Notes", dict[Place, Value](notes))]
    draw.shuffle(sheets)
    columns = {role: at for at, role in enumerate(layout.order, 1)}
    last = layout.first + count - 1
    area = Area("", layout.first, columns["price"], last, columns["price"])
    names = {f"All_{theme.titles['price']}": spelt(theme.sheet, area)}
    book = Book({sheet.name: sheet for sheet in sheets}, names)
    return Scene(theme, book, records, partners, titles, columns, layout.first, plan, cells)


def _partners(draw: random.Random) -> list[Record]:
    names = draw.sample([f"{start} {end}" for start in STARTS for end in ENDS], draw.randint(4, 7))
    people = draw.sample(PEOPLE, len(names))
    places = [draw.choice(COUNTRIES[:5]) for _ in names]
    return [
        {"partner": name, "country": country, "contact": person}
        for name, country, person in zip(names, places, people, strict=True)
    ]


def _records(
    draw: random.Random, theme: Theme, partners: Sequence[str], count: int
) -> list[Record]:
    """Amounts differ from one another, and some are blank."""
    keys = sorted(draw.sample(range(1000, 9999), count))
    amounts = draw.sample(range(2, 400), count)
    prices = draw.sample(range(150, 99_999), count)
    start = date(draw.choice((2022, 2023, 2024)), 1, 1)
    records: list[Record] = []
    for key, amount, price in zip(keys, amounts, prices, strict=True):
        quantity = None if draw.random() < 0.06 else amount
        cost = None if draw.random() < 0.06 else price / 100
        records.append(
            {
                "key": f"{theme.prefix}-{key}",
                "category": draw.choice(theme.categories),
                "partner": None if draw.random() < 0.05 else draw.choice(partners),
                "day": start + timedelta(days=draw.randrange(360)),
                "quantity": quantity,
                "price": cost,
                "value": None if quantity is None or cost is None else quantity * cost,
            }
        )
    return records


def _main(
    theme: Theme,
    records: Sequence[Record],
    layout: Layout,
    heading: bool = False,
    totals: bool = False,
) -> tuple[Sheet, dict[str, str]]:
    """The records on a sheet, and the names of its columns as a table has them."""
    cells: dict[Place, Value] = {}
    merged: list[Area] = []
    if heading:
        cells[1, 1] = f"{theme.sheet} of the year"
        merged.append(Area("", 1, 1, 1, len(layout.order)))
    titles: dict[str, str] = {}
    for at, role in enumerate(layout.order, 1):
        unit = {"quantity": theme.unit, "price": layout.price}.get(role, "")
        said = f"{theme.titles[role]} ({unit})" if unit else theme.titles[role]
        cells[layout.first - 1, at] = titles[role] = said
    if layout.depth == 2:
        half = 3
        for text, left, right in (("What", 1, half), ("How much", half + 1, len(layout.order))):
            cells[layout.header, left] = text
            merged.append(Area("", layout.header, left, layout.header, right))
            for role in layout.order[left - 1 : right]:
                titles[role] = f"{text} {titles[role]}"
    formulas: dict[Place, str] = {}
    formats: dict[Place, str] = {}
    columns = {role: at for at, role in enumerate(layout.order, 1)}
    for row, record in enumerate(records, layout.first):
        _line(cells, formulas, formats, columns, row, record)
        if (row, columns["price"]) in cells:
            formats[row, columns["price"]] = f'#,##0.00" {layout.price}"'
    if totals:
        bottom = layout.first + len(records) + 1
        cells[bottom, 1] = "Total"
        for role in ("quantity", "value"):
            held = [number for r in records if isinstance(number := r[role], int | float)]
            letter = letters(columns[role])
            spots = f"{letter}{layout.first}:{letter}{bottom - 2}"
            formulas[bottom, columns[role]] = f"=SUM({spots})"
            cells[bottom, columns[role]] = sum(held) if role == "quantity" else math.fsum(held)
    return Sheet(theme.sheet, cells, formulas, tuple(merged), formats), titles


def _line(
    cells: dict[Place, Value],
    formulas: dict[Place, str],
    formats: dict[Place, str],
    columns: Mapping[str, int],
    row: int,
    record: Record,
) -> None:
    """A record on a row; its value is a formula."""
    for role, value in record.items():
        if value is not None:
            cells[row, columns[role]] = value
    if record["value"] is not None:
        one, two = (f"{letters(columns[role])}{row}" for role in ("quantity", "price"))
        formulas[row, columns["value"]] = f"={one}*{two}"
    formats[row, columns["day"]] = "yyyy-mm-dd"


def _plan(draw: random.Random, theme: Theme) -> dict[str, dict[str, int]]:
    years = range(2022, 2022 + draw.choice((2, 3)))
    periods = [f"{year} {quarter}" for year in years for quarter in QUARTERS]
    kept = draw.sample(list(theme.categories), draw.randint(4, 6))
    return {name: {period: draw.randint(20, 900) for period in periods} for name in kept}


def _planned(
    theme: Theme, plan: Mapping[str, Mapping[str, int]]
) -> tuple[Sheet, dict[tuple[str, str], str]]:
    """The plan on a sheet, years over quarters, and the cell of each amount."""
    periods = list(next(iter(plan.values())))
    cells: dict[Place, Value] = {(2, 1): theme.titles["category"]}
    merged: list[Area] = []
    where: dict[tuple[str, str], str] = {}
    for at, period in enumerate(periods, 2):
        year, quarter = period.split()
        cells[2, at] = quarter
        if quarter == "Q1":
            cells[1, at] = int(year)
            merged.append(Area("", 1, at, 1, at + 3))
    # A table's name of the first column is its own word alone: nothing stands over it.
    formulas: dict[Place, str] = {}
    bottom = 3 + len(plan)
    for row, (name, amounts) in enumerate(plan.items(), 3):
        cells[row, 1] = name
        for at, period in enumerate(periods, 2):
            cells[row, at] = amounts[period]
            where[name, period] = f"Plan!{letters(at)}{row}"
    cells[bottom, 1] = "Total"
    for at, period in enumerate(periods, 2):
        formulas[bottom, at] = f"=SUM({letters(at)}3:{letters(at)}{bottom - 1})"
        cells[bottom, at] = sum(amounts[period] for amounts in plan.values())
    return Sheet("Plan", cells, formulas, tuple(merged)), where


def _listed(theme: Theme, partners: Sequence[Record]) -> Sheet:
    cells: dict[Place, Value] = {
        (1, 1): theme.titles["partner"],
        (1, 2): "Country",
        (1, 3): "Contact",
    }
    for row, record in enumerate(partners, 2):
        for at, role in enumerate(("partner", "country", "contact"), 1):
            cells[row, at] = record[role]
    return Sheet(theme.partners, cells)


def _redrawn(draw: random.Random, sheet: Sheet) -> Sheet:
    """The sheet with other whole numbers, and no formulas."""
    cells = {
        place: draw.randint(2, 400) if isinstance(value, int) else value
        for place, value in sheet.cells.items()
    }
    return replace(sheet, cells=cells, formulas={}, formats={})
