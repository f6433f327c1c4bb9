"""Cell references in A1 form: columns as letters, rows from 1, with or without a sheet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Place = tuple[int, int]  # row and column, from 1
ROWS, COLUMNS = 1_048_576, 16_384
CELL = re.compile(r"\$?([A-Za-z]{1,3})\$?([1-9][0-9]{0,6})", re.ASCII)
SIDE = re.compile(r"\$?([A-Za-z]{1,3})", re.ASCII)
SHEET = re.compile(r"(?:'((?:[^']|'')+)'|([^'!:,]+))!", re.ASCII)


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle of cells, both corners in it; ``sheet`` "" where none is named."""

    sheet: str
    top: int
    left: int
    bottom: int
    right: int

    def __contains__(self, place: Place) -> bool:
        return self.top <= place[0] <= self.bottom and self.left <= place[1] <= self.right

    @property
    def size(self) -> int:
        """How many cells."""
        return (self.bottom - self.top + 1) * (self.right - self.left + 1)

    def places(self) -> Iterator[Place]:
        """Its cells by rows."""
        for row in range(self.top, self.bottom + 1):
            for column in range(self.left, self.right + 1):
                yield row, column

    def within(self, rows: int, columns: int) -> Area:
        """Cut at a sheet's used area; at least its first cell stays."""
        bottom, right = min(self.bottom, rows), min(self.right, columns)
        return Area(self.sheet, self.top, self.left, max(self.top, bottom), max(self.left, right))


def letters(column: int) -> str:
    """1 is A, 27 is AA."""
    out = ""
    while column > 0:
        column, rest = divmod(column - 1, 26)
        out = chr(65 + rest) + out
    return out


def number(column: str) -> int:
    """A is 1, AA is 27; ValueError beyond a sheet's last column."""
    out = 0
    for letter in column.upper():
        out = 26 * out + ord(letter) - 64
    if out > COLUMNS:
        raise ValueError(f"no column {column}")
    return out


def named(place: Place) -> str:
    """(3, 2) is B3."""
    return f"{letters(place[1])}{place[0]}"


def place_of(text: str) -> Place:
    """B3 is (3, 2); ValueError for what is no cell."""
    match = CELL.fullmatch(text)
    if match is None or int(match[2]) > ROWS:
        raise ValueError(f"{text!r} is no cell: write it as B3")
    return int(match[2]), number(match[1])


def area_of(text: str, sheet: str = "") -> Area:
    """``B3``, ``A1:D20``, ``C:C`` or ``Sales!A1:D20``; ValueError for anything else."""
    text = text.strip()
    match = SHEET.match(text)
    if match:
        sheet = match[1].replace("''", "'") if match[1] else match[2]
        text = text[match.end() :]
    first, colon, last = text.partition(":")
    last = last if colon else first
    one, two = SIDE.fullmatch(first), SIDE.fullmatch(last)
    if colon and one and two:
        left, right = sorted((number(one[1]), number(two[1])))
        return Area(sheet, 1, left, ROWS, right)
    try:
        (top, left), (bottom, right) = place_of(first), place_of(last)
    except ValueError as error:
        raise ValueError(f"{text!r} is no range: write it as B3 or A1:D20") from error
    rows, columns = sorted((top, bottom)), sorted((left, right))
    return Area(sheet, rows[0], columns[0], rows[1], columns[1])


def areas_of(text: str, sheet: str = "") -> list[Area]:
    """Several, between commas; each without a sheet is on the one of the reference before it."""
    found: list[Area] = []
    for part in text.split(","):
        found.append(area_of(part, found[-1].sheet if found else sheet))
    return found


def spelt(sheet: str, area: Area) -> str:
    """An area with its sheet, as a formula has it."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", sheet, re.ASCII) is not None
    name = sheet if plain else "'" + sheet.replace("'", "''") + "'"
    first, last = named((area.top, area.left)), named((area.bottom, area.right))
    return f"{name}!{first}" if first == last else f"{name}!{first}:{last}"
