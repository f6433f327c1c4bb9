"""Arithmetic expressions in replies, evaluated exactly and without ``eval``."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 200
WRITTEN = re.compile(r"[0-9+\-*/() ]+")
SIGNS = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "\u2217": "*", "\u00b7": "*"})


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression is worth, None where it divides by zero, and the numbers it is made of."""

    value: Fraction | None
    numbers: tuple[int, ...]


def evaluate(text: str) -> Value | None:
    """The value of whole numbers, ``+ - * /`` and parentheses; None for any other text.

    Signs, powers and whatever else Python would evaluate are others, and so is a text longer than
    200 characters.
    """
    written = text.translate(SIGNS).strip()
    if len(written) > LONGEST or not WRITTEN.fullmatch(written):
        return None
    try:
        tree = ast.parse(written, mode="eval")
    except (SyntaxError, RecursionError, MemoryError):
        return None
    numbers: list[int] = []
    try:
        return Value(_value(tree.body, numbers), tuple(numbers))
    except ZeroDivisionError:
        return Value(None, tuple(_numbers(tree)))
    except ValueError:
        return None


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    """The exact value; ValueError for what is neither a number nor one of four operations."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        raise ValueError
    left, right = _value(node.left, numbers), _value(node.right, numbers)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
    raise ValueError


def _numbers(tree: ast.AST) -> list[int]:
    """The numbers of an expression that has no value."""
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is int]
