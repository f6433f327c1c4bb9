"""The functions that formulas may call, by name: pure, over values and rectangles of values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta

from upslope.tables.book import Value
from upslope.tables.operands import (
    EPOCH,
    CellError,
    Operand,
    compared,
    criterion,
    flat,
    grid,
    line,
    number,
    numbers,
    same,
    single,
)


def passing(pairs: Sequence[Operand], shape: int) -> list[bool]:
    """Which of so many cells pass all pairs of a range and a criterion."""
    if len(pairs) % 2 or not pairs:
        raise CellError("#VALUE!")
    keep = [True] * shape
    for at in range(0, len(pairs), 2):
        cells, holds = line(pairs[at]), criterion(single(pairs[at + 1]))
        if len(cells) != shape:
            raise CellError("#VALUE!")
        keep = [kept and holds(cell) for kept, cell in zip(keep, cells, strict=True)]
    return keep


def chosen(values: Operand, pairs: Sequence[Operand]) -> list[float]:
    """The numbers of a range in whose places all criteria hold."""
    cells = line(values)
    keep = passing(pairs, len(cells))
    return numbers([[[cell for cell, kept in zip(cells, keep, strict=True) if kept]]])


def mean(values: Sequence[float]) -> float:
    """#DIV/0! of none."""
    if not values:
        raise CellError("#DIV/0!")
    return math.fsum(values) / len(values)


def total(values: Sequence[float]) -> float:
    """A sum without rounding's drift; whole where all are whole."""
    if all(isinstance(value, int) for value in values):
        return sum(values)
    return math.fsum(values)


def _match(values: Sequence[Operand]) -> int:
    wanted, cells = single(values[0]), line(values[1])
    kind = number(values[2]) if len(values) > 2 else 1
    if kind == 0:
        holds = criterion(wanted) if isinstance(wanted, str) else None
        for place, cell in enumerate(cells, 1):
            if holds(cell) if holds else same(cell, wanted):
                return place
        raise CellError("#N/A")
    sign = "<=" if kind > 0 else ">="
    found = [
        p for p, cell in enumerate(cells, 1) if cell is not None and compared(sign, cell, wanted)
    ]
    if not found:
        raise CellError("#N/A")
    return found[-1]


def _index(values: Sequence[Operand]) -> Value:
    cells = grid(values[0])
    row, column = (int(number(v)) for v in (*values[1:3], 0)[:2])
    if len(cells) == 1 and len(values) == 2:
        row, column = 1, row
    column = column or 1
    if not (1 <= row <= len(cells) and 1 <= column <= len(cells[0])):
        raise CellError("#REF!")
    return cells[row - 1][column - 1]


def _vlookup(values: Sequence[Operand]) -> Value:
    cells = grid(values[1])
    near = 1 if len(values) < 4 or number(values[3]) else 0
    row = _match([values[0], [[r[0]] for r in cells], near])
    column = int(number(values[2]))
    if not 1 <= column <= len(cells[0]):
        raise CellError("#REF!")
    return cells[row - 1][column - 1]


def _xlookup(values: Sequence[Operand]) -> Value:
    try:
        return line(values[2])[_match([values[0], values[1], 0]) - 1]
    except CellError:
        if len(values) < 4:
            raise
        return single(values[3])
    except IndexError as error:
        raise CellError("#REF!") from error


def _nth(values: Sequence[Operand], largest: bool) -> float:
    ordered = sorted(numbers(values[:1]), reverse=largest)
    place = int(number(values[1]))
    if not 1 <= place <= len(ordered):
        raise CellError("#NUM!")
    return ordered[place - 1]


def _rounded(values: Sequence[Operand]) -> float:
    """Halves go away from zero."""
    value, places = number(values[0]), int(number(values[1])) if len(values) > 1 else 0
    if not -15 <= places <= 15:
        raise CellError("#NUM!")
    scaled = abs(value) * 10.0**places
    whole = math.floor(float(f"{scaled:.12g}") + 0.5)
    return math.copysign(whole / 10.0**places, value)


def _root(values: Sequence[Operand]) -> float:
    value = number(values[0])
    if value < 0:
        raise CellError("#NUM!")
    return math.sqrt(value)


def _product(values: Sequence[Operand]) -> float:
    columns = [[0 if isinstance(v, str | None) else number(v) for v in line(g)] for g in values]
    if len({len(column) for column in columns}) != 1:
        raise CellError("#VALUE!")
    return total([math.prod(row) for row in zip(*columns, strict=True)])


def _day(value: Operand) -> date:
    one = single(value)
    if isinstance(one, str):
        try:
            return date.fromisoformat(one)
        except ValueError as error:
            raise CellError("#VALUE!") from error
    return one if isinstance(one, date) else EPOCH + timedelta(days=number(one))


def _date(values: Sequence[Operand]) -> date:
    year, month, day = (int(number(v)) for v in values)
    try:
        return date(year, month, day)
    except ValueError as error:
        raise CellError("#NUM!") from error


def _truths(values: Sequence[Operand]) -> list[bool]:
    return [bool(number(value)) for value, cell in flat(values) if not (cell and value is None)]


# Least and most arguments, and what is done with them; IF and IFERROR are the evaluator's.
FUNCTIONS: Mapping[str, tuple[int, int, Callable[[Sequence[Operand]], Operand]]] = {
    "SUM": (1, 99, lambda v: total(numbers(v))),
    "AVERAGE": (1, 99, lambda v: mean(numbers(v))),
    "MEDIAN": (1, 99, lambda v: statistics.median(numbers(v) or _none())),
    "MIN": (1, 99, lambda v: min(numbers(v), default=0)),
    "MAX": (1, 99, lambda v: max(numbers(v), default=0)),
    "COUNT": (1, 99, lambda v: sum(isinstance(c, int | float | date) for c, _ in flat(v))),
    "COUNTA": (1, 99, lambda v: sum(c is not None for c, _ in flat(v))),
    "COUNTBLANK": (1, 1, lambda v: sum(c in (None, "") for c in line(v[0]))),
    "COUNTIF": (2, 2, lambda v: sum(passing(v, len(line(v[0]))))),
    "COUNTIFS": (2, 99, lambda v: sum(passing(v, len(line(v[0]))))),
    "SUMIF": (2, 3, lambda v: total(chosen(v[-1] if len(v) > 2 else v[0], v[:2]))),
    "SUMIFS": (3, 99, lambda v: total(chosen(v[0], v[1:]))),
    "AVERAGEIF": (2, 3, lambda v: mean(chosen(v[-1] if len(v) > 2 else v[0], v[:2]))),
    "AVERAGEIFS": (3, 99, lambda v: mean(chosen(v[0], v[1:]))),
    "MINIFS": (3, 99, lambda v: min(chosen(v[0], v[1:]), default=0)),
    "MAXIFS": (3, 99, lambda v: max(chosen(v[0], v[1:]), default=0)),
    "SUMPRODUCT": (1, 9, _product),
    "INDEX": (2, 3, _index),
    "MATCH": (2, 3, _match),
    "VLOOKUP": (3, 4, _vlookup),
    "XLOOKUP": (3, 4, _xlookup),
    "LARGE": (2, 2, lambda v: _nth(v, True)),
    "SMALL": (2, 2, lambda v: _nth(v, False)),
    "ROUND": (1, 2, _rounded),
    "ABS": (1, 1, lambda v: abs(number(v[0]))),
    "INT": (1, 1, lambda v: math.floor(number(v[0]))),
    "SQRT": (1, 1, _root),
    "AND": (1, 99, lambda v: all(_truths(v))),
    "OR": (1, 99, lambda v: any(_truths(v))),
    "NOT": (1, 1, lambda v: not number(v[0])),
    "YEAR": (1, 1, lambda v: _day(v[0]).year),
    "MONTH": (1, 1, lambda v: _day(v[0]).month),
    "DAY": (1, 1, lambda v: _day(v[0]).day),
    "DATE": (3, 3, _date),
    "LEN": (1, 1, lambda v: len(str(single(v[0]) or ""))),
}


def _none() -> list[float]:
    raise CellError("#NUM!")
