"""Formulas over a workbook, evaluated one at a time; all of its own are ``recalculated.py``'s.

A whitelist of functions, no text becomes code, and every formula's work is bounded by the cells
that it may read. Not a spreadsheet: no arrays that spill, no volatile functions, no links to files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from upslope.tables.book import Book, MissingError, Sheet, Value, told
from upslope.tables.functions import FUNCTIONS
from upslope.tables.operands import CellError, Operand, compared, number, single
from upslope.tables.references import Area, Place, area_of
from upslope.tables.syntax import Apply, Constant, Name, Node, Range, parsed

MOST_CELLS = 200_000  # that one formula reads
BIGGEST = 1e300
Cell = tuple[str, Place]  # a sheet's name, and where in it
COMPARED = ("=", "<>", "<", ">", "<=", ">=")


@dataclass
class Evaluator:
    """Evaluates trees over a book; ``known``: values in place of the book's own."""

    book: Book
    known: Mapping[Cell, Value]
    hidden: bool = False  # whether hidden sheets are read, as a workbook's own formulas may
    left: int = MOST_CELLS

    def value(self, node: Node, sheet: Sheet | None) -> Operand:
        """What a tree comes to; CellError where that is an error."""
        if isinstance(node, Constant):
            return single(node.value)
        if isinstance(node, Name):
            return self._named(node.name)
        if isinstance(node, Range):
            return self._cells(node.area, sheet)
        if node.function in ("IF", "IFERROR"):
            return self._choice(node, sheet)
        if node.function[0].isalpha():
            return self._call(node.function, [self.value(n, sheet) for n in node.arguments])
        one, other = (single(self.value(n, sheet)) for n in node.arguments)
        return _signed(node.function, one, other)

    def _cells(self, area: Area, sheet: Sheet | None) -> Operand:
        found = self._sheet(area.sheet) if area.sheet else sheet
        if found is None:
            raise CellError("#REF!")
        cut = area.within(found.rows, found.columns)
        self.left -= cut.size
        if self.left < 0:
            raise CellError("#NUM!")
        return [
            [self._cell(found, (row, column)) for column in range(cut.left, cut.right + 1)]
            for row in range(cut.top, cut.bottom + 1)
        ]

    def _cell(self, sheet: Sheet, place: Place) -> Value:
        own = sheet.cells.get(place)
        return self.known.get((sheet.name, place), own) if self.known else own

    def _sheet(self, name: str) -> Sheet:
        if self.hidden:
            for sheet in self.book.sheets.values():
                if sheet.name.casefold() == name.casefold():
                    return sheet
            raise CellError("#REF!")
        try:
            return self.book.sheet(name)
        except MissingError as error:
            raise CellError("#REF!") from error

    def _named(self, name: str) -> Operand:
        for known, reference in self.book.names.items():
            if known.casefold() == name.casefold():
                return self._cells(area_of(reference), None)
        raise CellError("#NAME?")

    def _choice(self, node: Apply, sheet: Sheet | None) -> Operand:
        arguments = node.arguments
        if node.function == "IFERROR" and len(arguments) == 2:
            try:
                return single(self.value(arguments[0], sheet))
            except CellError:
                return self.value(arguments[1], sheet)
        if node.function == "IF" and 2 <= len(arguments) <= 3:
            if number(self.value(arguments[0], sheet)):
                return self.value(arguments[1], sheet)
            return self.value(arguments[2], sheet) if len(arguments) == 3 else False
        raise CellError("#VALUE!")

    def _call(self, name: str, values: Sequence[Operand]) -> Operand:
        if name not in FUNCTIONS:
            raise CellError("#NAME?")
        least, most, function = FUNCTIONS[name]
        if not least <= len(values) <= most:
            raise CellError("#VALUE!")
        return function(values)


def evaluated(formula: str, book: Book, sheet: str = "") -> Value:
    """A formula's value over a book; an error's name where it is one, or FormulaError."""
    node = parsed(formula)
    return bounded(Evaluator(book, {}), node, book.sheet(sheet) if book.shown else None)


def worked_out(expression: str) -> Value:
    """What arithmetic without cells comes to."""
    return bounded(Evaluator(Book({}), {}), parsed(expression), None)


def bounded(evaluator: Evaluator, node: Node, sheet: Sheet | None) -> Value:
    """A tree's value, every error of arithmetic by its name."""
    try:
        value = single(evaluator.value(node, sheet))
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) < BIGGEST):
            return "#NUM!"
    except CellError as error:
        return str(error)
    except (OverflowError, ValueError, ZeroDivisionError):
        return "#NUM!"
    return 0 if value is None else value


def _signed(sign: str, one: Value, other: Value) -> Value:
    if sign in COMPARED:
        return compared(sign, one, other)
    if sign == "&":
        return f"{told(one)}{told(other)}"[:10_000]
    left, right = number(one), number(other)
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if sign == "/":
        if not right:
            raise CellError("#DIV/0!")
        return left / right
    if abs(right) > 1000 or (left == 0 and right < 0):
        raise CellError("#NUM!")
    if left < 0 and right != int(right):
        raise CellError("#NUM!")
    return float(math.pow(left, right))
