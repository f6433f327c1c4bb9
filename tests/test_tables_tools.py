"""Tools over a workbook: what they say, what they refuse, and how fast they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest

from upslope.tables import tiny
from upslope.tables.bench import Bench, cells_of, seen_cells
from upslope.tables.book import Book, Sheet, told
from upslope.tables.references import Area, area_of, areas_of, letters, named, number, spelt
from upslope.tables.tools import read_only, short
from upslope.tools import ToolError

SALES = Sheet(
    "Sales",
    {
        (1, 1): "item",
        (1, 2): "qty",
        (1, 3): "when",
        (2, 1): "nut",
        (2, 2): 3,
        (2, 3): date(2024, 3, 1),
        (3, 1): "bolt",
        (3, 2): 4.5,
        (4, 1): "nut",
    },
    formats={(2, 2): "0.00"},
)
DRAFT = Sheet("Draft", {(1, 1): "item", (2, 1): "nut"}, hidden=True)
BOOK = Book(
    {"Draft": DRAFT, "Sales": SALES, "Old stock": Sheet("Old stock", {(1, 1): "empty nut"})},
    {"Amounts": "Sales!$B$2:$B$3", "Hid": "Draft!$A$1"},
)
BENCH = Bench(BOOK)
TOOLS = {tool.name: tool for tool in (*read_only(BENCH), *short(BENCH))}


def called(name: str, arguments: Mapping[str, Any]) -> str:
    return asyncio.run(TOOLS[name].call(arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        (
            "list_sheets",
            {},
            "Sales: 4 rows, 3 columns: A item, B qty, C when\n"
            "Old stock: 1 rows, 1 columns: A empty nut\nAmounts = Sales!$B$2:$B$3",
        ),
        ("head", {"sheet": "sales", "n": 2}, "row | A | B | C\n1 | item | qty | when\n"
         "2 | nut | 3 | 2024-03-01"),
        ("read_range", {"range": "Sales!B2:C3"}, "row | B | C\n2 | 3 | 2024-03-01\n3 | 4.5 | "),
        ("read_range", {"range": "amounts"}, "row | B\n2 | 3\n3 | 4.5"),
        ("read_range", {"range": "B:B"}, "row | B\n1 | qty\n2 | 3\n3 | 4.5\n4 | "),
        ("find", {"text": "NUT"}, "Sales!A2: nut\nSales!A4: nut\n'Old stock'!A1: empty nut"),
        ("find", {"text": "zip"}, "nothing found"),
        ("describe", {"sheet": "Sales", "column": "qty"}, "qty: column B, rows 2 to 4\n"
         "2 values, 1 blank, 2 different\nshown as 0.00\nnumbers: 2, from 3 to 4.5"),
        ("describe", {"sheet": "Sales", "column": "A"}, "item: column A, rows 2 to 4\n"
         "3 values, 0 blank, 2 different\ntexts: nut (2), bolt (1)"),
        ("describe", {"sheet": "Sales", "column": "when"}, "when: column C, rows 2 to 4\n"
         "1 values, 2 blank, 1 different\ndates: 1, from 2024-03-01 to 2024-03-01"),
        ("sql", {"query": "select item, qty from Sales where qty > 3"}, "item | qty\nbolt | 4.5"),
        ("sql", {"query": "select item from Sales where qty > 9"}, "item\nno rows"),
        ("formula", {"formula": '=SUMIFS(Sales!B2:B4,Sales!A2:A4,"nut")'}, "3"),
        ("formula", {"formula": "=1/0"}, "#DIV/0!"),
        ("calc", {"expression": "14+9"}, "23"),
        ("f", {"text": "nut"}, "A2 A4"),
        ("f", {"text": "zip"}, "-"),
        ("r", {"range": "A2 B2:B4"}, "nut 3 4.5 -"),
        ("c", {"sum": "3-4.5"}, "-1.5"),
    ],
)  # fmt: skip
def test_what_tools_say(name: str, arguments: Mapping[str, Any], said: str) -> None:
    bench = Bench(Book({"Sales": SALES})) if name in "frc" else BENCH
    tools = {tool.name: tool for tool in (*read_only(bench), *short(bench))}
    assert asyncio.run(tools[name].call(arguments)) == said


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("head", {"sheet": "Draft"}, "no sheet 'Draft': there are Sales, Old stock"),
        ("read_range", {"range": "Draft!A1"}, "no sheet"),
        ("read_range", {"range": "Hid"}, "no sheet"),
        ("read_range", {"range": "nowhere"}, "no range"),
        ("read_range", {"range": "A0"}, "no range"),
        ("read_range", {"range": "ZZZ1"}, "no range"),
        ("find", {"text": " "}, "give a text"),
        ("describe", {"sheet": "Sales", "column": "price"}, "no column 'price': there are A item"),
        ("sql", {"query": "select * from Draft"}, "no such table"),
        ("sql", {"query": "drop table Sales"}, "only a SELECT"),
        ("formula", {"formula": "=SUM("}, "ends too early"),
        ("calc", {"expression": "1/0"}, "#DIV/0!"),
        ("calc", {"expression": "import os"}, "not expected"),
        ("r", {"range": "  "}, "name a cell"),
        ("r", {"range": "A1 nut"}, "no range"),
    ],
)
def test_what_tools_refuse(name: str, arguments: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ToolError, match=why):
        called(name, arguments)


def test_large_ranges_are_refused_and_not_listed() -> None:
    cells = {(row, column): 1 for row in range(1, 101) for column in range(1, 6)}
    bench = Bench(Book({"S": Sheet("S", cells)}))
    with pytest.raises(ToolError, match="500 cells: read at most 400"):
        bench.read_range("A1:E100")
    with pytest.raises(ToolError, match="at most 400"):
        bench.values("A1:E50 A51:E100")
    assert bench.find("1").endswith("and 480 more")
    assert len(bench.head("S", 90).splitlines()) == 21


def test_references() -> None:
    assert [letters(n) for n in (1, 26, 27, 702, 703)] == ["A", "Z", "AA", "ZZ", "AAA"]
    assert [number(letters(n)) for n in (1, 26, 27, 702, 16384)] == [1, 26, 27, 702, 16384]
    assert named((3, 28)) == "AB3"
    assert area_of("$B$3:A1") == Area("", 1, 1, 3, 2)
    assert area_of("'it''s, all'!C2") == Area("it's, all", 2, 3, 2, 3)
    assert spelt("it's", area_of("A1:B2")) == "'it''s'!A1:B2"
    assert areas_of("S!A1, B2,T!C3") == [area_of("S!A1"), area_of("S!B2"), area_of("T!C3")]
    with pytest.raises(ValueError, match="no range"):
        area_of("A1:B")


def test_cells_that_a_call_showed() -> None:
    head = seen_cells("head", {"sheet": "Sales", "n": 1}, BOOK)
    assert head == {"Sales!A1", "Sales!B1", "Sales!C1"}
    assert seen_cells("read_range", {"range": "B2:B9"}, BOOK) == {f"Sales!B{n}" for n in (2, 3, 4)}
    assert seen_cells("r", {"range": "A2 C3"}, BOOK) == {"Sales!A2", "Sales!C3"}
    assert seen_cells("read_range", {"range": "Draft!A1"}, BOOK) == set()
    assert seen_cells("read_range", {"range": "what"}, BOOK) == set()
    many = [area_of("A1:C4")] * 3
    assert cells_of(many, BOOK, most=20) == cells_of(many[:1], BOOK)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1 + 0.2, "0.3"), (3.0, "3"), (True, "TRUE"), (None, ""), (1e20, "1e+20"),
     (float("inf"), "#NUM!"), (10**20, "1" + "0" * 20)],
)  # fmt: skip
def test_values_are_shown_plainly(value: Any, shown: str) -> None:
    assert told(value) == shown


def test_a_call_in_memory_takes_less_than_a_fifth_of_a_millisecond() -> None:
    """Of a ladder model's workbook, as RL plays it; the least of several rounds."""
    bench = Bench(tiny.asked(0, tiny.KINDS, 0).book)
    tools = {tool.name: tool for tool in short(bench)}
    asked = [("f", {"text": "red"}), ("r", {"range": "A2 B3 C4"}), ("c", {"sum": "14+9+31"})]

    async def round_of(times: int) -> float:
        started = time.process_time()
        for _ in range(times):
            for name, arguments in asked:
                await tools[name].call(arguments)
        return (time.process_time() - started) / (times * len(asked))

    assert min(asyncio.run(round_of(50)) for _ in range(5)) < 2e-4
