"""The tools of a workbook, as ``upslope.tools`` has them: names, descriptions, schemas, calls.

``read_only`` is all of them; ``short`` has three with names of a letter, for ladder models, whose
every character is a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from upslope.tables.bench import Bench
from upslope.tools import Tool

TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 1}


@dataclass(frozen=True)
class Asked:
    """A tool that answers at once."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    answer: Callable[[Mapping[str, Any]], str]

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """What the workbook says."""
        return self.answer(arguments)


def read_only(bench: Bench) -> list[Tool]:
    """Every tool over a workbook."""
    return [
        Asked(
            "list_sheets",
            "The sheets with their sizes and columns, and the named ranges.",
            _schema({}),
            lambda a: bench.list_sheets(),
        ),
        Asked(
            "head",
            "The first n rows of a sheet.",
            _schema({"sheet": TEXT, "n": WHOLE}, "sheet"),
            lambda a: bench.head(a["sheet"], a.get("n", 5)),
        ),
        Asked(
            "read_range",
            "The cells of a range such as Sales!A1:D20, or of a named range.",
            _schema({"range": TEXT}, "range"),
            lambda a: bench.read_range(a["range"]),
        ),
        Asked(
            "find",
            "The cells that contain a text.",
            _schema({"text": TEXT}, "text"),
            lambda a: bench.find(a["text"]),
        ),
        Asked(
            "describe",
            "What values a column has, by its title or letter.",
            _schema({"sheet": TEXT, "column": TEXT}, "sheet", "column"),
            lambda a: bench.describe(a["sheet"], a["column"]),
        ),
        Asked(
            "sql",
            "A SELECT in SQLite over the sheets as tables, which have a column row, too; "
            "dates are texts such as 2024-03-01.",
            _schema({"query": TEXT}, "query"),
            lambda a: bench.sql(a["query"]),
        ),
        Asked(
            "formula",
            "The value of a spreadsheet formula such as =SUMIFS(Sales!D2:D20, Sales!B2:B20, x).",
            _schema({"formula": TEXT}, "formula"),
            lambda a: bench.formula(a["formula"]),
        ),
        Asked(
            "calc",
            "The value of an arithmetic expression.",
            _schema({"expression": TEXT}, "expression"),
            lambda a: bench.calc(a["expression"]),
        ),
    ]


def short(bench: Bench) -> list[Tool]:
    """``f`` finds cells that are a text, ``r`` reads cells, ``c`` calculates."""
    return [
        Asked("f", "Find.", _schema({"text": TEXT}, "text"), lambda a: bench.spots(a["text"])),
        Asked("r", "Read.", _schema({"range": TEXT}, "range"), lambda a: bench.values(a["range"])),
        Asked("c", "Calculate.", _schema({"sum": TEXT}, "sum"), lambda a: bench.calc(a["sum"])),
    ]


def _schema(properties: Mapping[str, Any], *required: str) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }
