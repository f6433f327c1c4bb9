"""What functions are given: values as numbers, rectangles, comparisons and criteria.

An error is a value, raised as ``CellError`` and shown as a spreadsheet shows it, such as #DIV/0!.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta

from upslope.tables.book import ERRORS, Value

Grid = list[list[Value]]  # by rows
Operand = Value | Grid
EPOCH = datetime(1899, 12, 30)
CRITERION = re.compile(r"(<>|<=|>=|=|<|>)?(.*)", re.DOTALL)


class CellError(Exception):
    """A formula's error, such as #DIV/0!, which is what its cell shows."""


def serial(value: date) -> float:
    """A date as the number that spreadsheets count it by."""
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return (moment - EPOCH) / timedelta(days=1)


def number(value: Operand) -> float | int:
    """A value as a number: blank is 0, a text that spells one is it, a date its serial number."""
    value = single(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if value is None:
        return 0
    if isinstance(value, date):
        return serial(value)
    try:
        return float(value)
    except ValueError as error:
        raise CellError("#VALUE!") from error


def single(value: Operand) -> Value:
    """A value; a rectangle of one cell is that cell's. CellError where it is an error."""
    if isinstance(value, list):
        if len(value) != 1 or len(value[0]) != 1:
            raise CellError("#VALUE!")
        value = value[0][0]
    if isinstance(value, str) and value in ERRORS:
        raise CellError(value)
    return value


def flat(values: Sequence[Operand]) -> Iterator[tuple[Value, bool]]:
    """Every value, and whether it was read from cells, where texts and blanks are passed over."""
    for value in values:
        if isinstance(value, list):
            for row in value:
                yield from ((cell, True) for cell in row)
        else:
            yield value, False


def numbers(values: Sequence[Operand]) -> list[float]:
    """The numbers among arguments, as SUM counts them."""
    out: list[float] = []
    for value, cell in flat(values):
        if isinstance(value, str) and value in ERRORS:
            raise CellError(value)
        if cell and (value is None or isinstance(value, bool | str)):
            continue
        out.append(number(value))
    return out


def criterion(wanted: Value) -> Callable[[Value], bool]:
    """What ``">5"``, ``"<>x"``, ``"a*"`` or a plain value lets through, as in COUNTIF."""
    if not isinstance(wanted, str):
        return lambda value: not isinstance(value, str) and same(value, wanted)
    match = CRITERION.fullmatch(wanted)
    assert match is not None
    sign, text = match[1] or "=", match[2]
    try:
        bound: float | None = float(text)
    except ValueError:
        bound = _dated(text)
    if bound is None:
        return _spelt(sign, text)

    def holds(value: Value) -> bool:
        if isinstance(value, bool | str) or value is None:
            return sign == "<>"
        return _compare(sign, number(value), bound)

    return holds


def _dated(text: str) -> float | None:
    try:
        return serial(date.fromisoformat(text))
    except ValueError:
        return None


def _spelt(sign: str, text: str) -> Callable[[Value], bool]:
    if sign in ("=", "<>"):
        if not text:
            return lambda value: (value in (None, "")) == (sign == "=")
        shape = re.compile(fnmatch.translate(text.casefold().replace("[", "[[]")))
        return lambda value: (
            (isinstance(value, str) and bool(shape.match(value.casefold()))) == (sign == "=")
        )
    return lambda value: (
        isinstance(value, str) and _compare(sign, value.casefold(), text.casefold())
    )


def _compare(sign: str, one: float | str, other: float | str) -> bool:
    """Of two numbers or of two texts."""
    if sign in ("=", "<>"):
        return (one == other) == (sign == "=")
    less = one < other  # type: ignore[operator]
    if sign in ("<", ">="):
        return less == (sign == "<")
    return (less or one == other) == (sign == "<=")


def compared(sign: str, one: Value, other: Value) -> bool:
    """As formulas compare: texts without case; numbers before texts before truth values."""
    left, right = _ranked(one, other), _ranked(other, one)
    if left[0] != right[0]:
        return _compare(sign, left[0], right[0])
    return _compare(sign, left[1], right[1])


def _ranked(value: Value, other: Value) -> tuple[int, float | str]:
    if value is None:
        value = "" if isinstance(other, str) else 0
    if isinstance(value, bool):
        return 2, int(value)
    if isinstance(value, str):
        return 1, value.casefold()
    return 0, number(value)


def same(one: Value, other: Value) -> bool:
    """Whether two values are equal, as ``=`` has it."""
    return compared("=", one, other)


def grid(value: Operand) -> Grid:
    """An argument as a rectangle."""
    return value if isinstance(value, list) else [[value]]


def line(value: Operand) -> list[Value]:
    """A row or a column, or a rectangle by rows."""
    return [cell for row in grid(value) for cell in row]
