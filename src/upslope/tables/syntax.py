"""Formulas as trees: what a workbook's formulas are made of, read without evaluating anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from upslope.tables.references import Area, area_of

LONGEST = 2000  # characters of a formula
DEEPEST = 40  # brackets and calls inside one another
TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)(?![\w!])
    |"(?P<text>(?:[^"]|"")*)"
    |(?P<area>(?:(?:'(?:[^']|'')+'|[A-Za-z_][\w.]*)!)?
        (?:\$?[A-Za-z]{1,3}\$?[1-9]\d{0,6}(?::\$?[A-Za-z]{1,3}\$?[1-9]\d{0,6})?
        |\$?[A-Za-z]{1,3}:\$?[A-Za-z]{1,3}))(?![\w(.!])
    |(?P<error>\#(?:DIV/0!|N/A|NAME\?|NULL!|NUM!|REF!|VALUE!))
    |(?P<word>[A-Za-z_][\w.]*)
    |(?P<sign><=|>=|<>|[-+*/^&=<>%(),;])
    )""",
    re.VERBOSE | re.ASCII,
)
BINARY = (("=", "<>", "<=", ">=", "<", ">"), ("&",), ("+", "-"), ("*", "/"), ("^",))


class FormulaError(Exception):
    """What is no formula; its text says why."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, a text, a truth value, or None for an argument left out."""

    value: float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Range:
    """Cells; a sheet of "" is the formula's own."""

    area: Area


@dataclass(frozen=True, slots=True)
class Name:
    """A named range."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """A function, in capitals, or a sign, and what it is given."""

    function: str
    arguments: tuple[Node, ...]


Node = Constant | Range | Name | Apply


def parsed(formula: str) -> Node:
    """The tree of ``=SUM(B2:B9)/2``, with or without the sign before it; FormulaError otherwise."""
    text = formula.strip()
    text = text[1:] if text.startswith("=") else text
    if len(text) > LONGEST:
        raise FormulaError(f"a formula may have {LONGEST} characters, not {len(text)}")
    reader = _Reader(list(_tokens(text)))
    node = reader.level(0)
    if reader.at < len(reader.tokens):
        raise FormulaError(f"{reader.tokens[reader.at][1]!r} is not expected there")
    return node


def parts(node: Node) -> Iterator[Node]:
    """A tree's nodes."""
    left = [node]
    while left:
        one = left.pop()
        yield one
        if isinstance(one, Apply):
            left += one.arguments


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            raise FormulaError(f"{text[at : at + 20].strip()!r} is no part of a formula")
        kind = str(match.lastgroup)
        yield kind, match[kind]
        at = match.end()


class _Reader:
    """Reads tokens by precedence, from comparison, which binds least, to powers."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def level(self, number: int) -> Node:
        """What binds at least as much as the signs of ``BINARY[number]``."""
        if number == len(BINARY):
            return self.signed()
        node = self.level(number + 1)
        while (sign := self.sign()) in BINARY[number]:
            self.at += 1
            node = Apply(sign, (node, self.level(number + 1)))
        return node

    def signed(self) -> Node:
        """Signs before a value bind more than a power does: -2^2 is 4."""
        signs = 0
        while (sign := self.sign()) in ("-", "+"):
            self.at += 1
            signs += sign == "-"
        node = self.value()
        while self.sign() == "%":
            self.at += 1
            node = Apply("/", (node, Constant(100)))
        return Apply("-", (Constant(0), node)) if signs % 2 else node

    def value(self) -> Node:
        """A constant, a reference, a call or brackets."""
        if self.at >= len(self.tokens):
            raise FormulaError("the formula ends too early")
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return Constant(int(text) if text.isdigit() else float(text))
        if kind == "text":
            return Constant(text.replace('""', '"'))
        if kind == "error":
            return Constant(text)
        if kind == "area":
            try:
                return Range(area_of(text))
            except ValueError as error:
                raise FormulaError(str(error)) from error
        if kind == "word":
            return self.word(text)
        if text == "(":
            node = self.inside()
            self.expect(")")
            return node
        raise FormulaError(f"{text!r} is not expected there")

    def word(self, text: str) -> Node:
        if self.sign() == "(":
            self.at += 1
            found: list[Node] = []
            while self.sign() != ")":
                found.append(Constant(None) if self.sign() in (",", ";") else self.inside())
                if self.sign() not in (",", ";"):
                    break
                self.at += 1
            self.expect(")")
            return Apply(text.upper().removeprefix("_XLFN."), tuple(found))
        if text.upper() in ("TRUE", "FALSE"):
            return Constant(text.upper() == "TRUE")
        return Name(text)

    def inside(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise FormulaError(f"brackets may be {DEEPEST} deep")
        node = self.level(0)
        self.depth -= 1
        return node

    def sign(self) -> str:
        """The sign that comes next; "" where none does."""
        kind, text = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        return text if kind == "sign" else ""

    def expect(self, sign: str) -> None:
        if self.sign() != sign:
            raise FormulaError(f"{sign!r} is missing")
        self.at += 1
