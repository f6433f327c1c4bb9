"""Formulas: syntax, functions, errors as values, cycles, and the order that a workbook needs."""

from __future__ import annotations

from datetime import date

import pytest

from upslope.tables.book import Book, Sheet, Value, told
from upslope.tables.formulas import evaluated, worked_out
from upslope.tables.recalculated import calculated
from upslope.tables.syntax import FormulaError

ROWS: list[list[Value]] = [
    ["item", "kind", "qty", "price", "when"],
    ["nut", "red", 3, 1.5, date(2024, 3, 1)],
    ["bolt", "red", 10, 0.25, date(2024, 4, 15)],
    ["cap", "tan", None, 2.0, date(2024, 5, 31)],
    ["pin", "tan", 7, None, date(2025, 1, 1)],
]
CELLS = {
    (row, column): value
    for row, values in enumerate(ROWS, 1)
    for column, value in enumerate(values, 1)
    if value is not None
}
OTHER = Sheet("Rates 2024", {(1, 1): "red", (1, 2): 0.1, (2, 1): "tan", (2, 2): 0.2})
SECRET = Sheet("Secret", {(1, 1): 99}, hidden=True)
BOOK = Book(
    {"Stock": Sheet("Stock", CELLS), "Rates 2024": OTHER, "Secret": SECRET},
    {"Amounts": "Stock!$C$2:$C$5"},
)


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("=1+2*3", 7),
        ("=(1+2)*3", 9),
        ("=-2^2", 4),  # a sign binds more than a power does
        ("=2^3^2", 64),  # powers from the left
        ("=10%", 0.1),
        ("=7-2-1", 4),
        ('="a"&1', "a1"),
        ("=1<2", True),
        ('="B">"a"', True),
        ('="a"="A"', True),
        ('="a">9', True),  # texts come after numbers
        ("=1.5E3", 1500),
        ("=SUM(C2:C5)", 20),
        ("=SUM(Amounts)", 20),
        ("=SUM(C:C)", 20),
        ("=SUM(C2:C5, 4, D2)", 25.5),
        ("=AVERAGE(C2:C5)", 20 / 3),
        ("=MEDIAN(C2:C5)", 7),
        ("=MIN(D2:D5)", 0.25),
        ("=MAX(D2:D5)", 2),
        ("=COUNT(A1:E5)", 10),
        ("=COUNTA(C2:C5)", 3),
        ("=COUNTBLANK(C2:D5)", 2),
        ('=COUNTIF(B2:B5,"RED")', 2),
        ('=COUNTIF(A2:A5,"*t")', 2),
        ('=COUNTIF(C2:C5,">5")', 2),
        ('=COUNTIF(C2:C5,"<>3")', 3),
        ('=COUNTIF(E2:E5,">=2024-04-15")', 3),
        ('=SUMIF(B2:B5,"red",C2:C5)', 13),
        ('=SUMIF(C2:C5,">5")', 17),
        ('=SUMIFS(C2:C5,B2:B5,"red",C2:C5,">5")', 10),
        ('=AVERAGEIFS(D2:D5,B2:B5,"red")', 0.875),
        ('=MAXIFS(C2:C5,B2:B5,"red")', 10),
        ("=SUMPRODUCT(C2:C5,D2:D5)", 7),
        ('=INDEX(A2:A5,MATCH("pin",A2:A5,0))', "pin"),
        ("=INDEX(A1:E5,2,3)", 3),
        ('=MATCH("b*",A2:A5,0)', 2),
        ("=MATCH(6,C2:C3,1)", 1),
        ('=VLOOKUP("bolt",A2:D5,4,FALSE)', 0.25),
        ("=VLOOKUP(B2,'Rates 2024'!A1:B2,2,0)", 0.1),
        ('=XLOOKUP("zip",A2:A5,C2:C5,"none")', "none"),
        ("=LARGE(C2:C5,2)", 7),
        ("=ROUND(2.345,2)", 2.35),
        ("=ROUND(-2.5,0)", -3),
        ("=ROUND(1234,-2)", 1200),
        ("=IF(C2>2,A2,1/0)", "nut"),
        ("=IFERROR(1/0,5)", 5),
        ("=AND(TRUE,C2=3)", True),
        ("=YEAR(E5)+MONTH(E4)+DAY(E3)", 2025 + 5 + 15),
        ("=E3-E2", 45),
        ("=DATE(2024,2,29)", date(2024, 2, 29)),
        ("=ABS(-3)+INT(2.7)+LEN(A3)", 9),
    ],
)
def test_values_are_what_a_spreadsheet_has(formula: str, value: Value) -> None:
    found = evaluated(formula, BOOK)
    if isinstance(value, float):
        assert found == pytest.approx(value, rel=1e-12)
    else:
        assert found == value


@pytest.mark.parametrize(
    ("formula", "error"),
    [
        ("=1/0", "#DIV/0!"),
        ("=AVERAGE(A2:A5)", "#DIV/0!"),
        ("=A2+1", "#VALUE!"),
        ("=SUM(C2:C5)+Nowhere!A1", "#REF!"),
        ("=Secret!A1", "#REF!"),  # hidden sheets are nobody's
        ("=NOPE(1)", "#NAME?"),
        ("=nothing", "#NAME?"),
        ("=ROUND(1,2,3)", "#VALUE!"),
        ('=VLOOKUP("zip",A2:D5,4,FALSE)', "#N/A"),
        ("=INDEX(A1:B2,3,1)", "#REF!"),
        ("=9^9^999", "#NUM!"),
        ("=(-8)^0.5", "#NUM!"),
        ("=0^-1", "#NUM!"),
        ("=" + "*".join(["999999999999999"] * 30), "#NUM!"),
        ("=LARGE(C2:C5,9)", "#NUM!"),
        ("=SUMIFS(C2:C5,B2:B4,1)", "#VALUE!"),
        ("=C2:C5+1", "#VALUE!"),
        ("=#N/A+1", "#N/A"),
    ],
)
def test_errors_are_values_with_their_names(formula: str, error: str) -> None:
    assert evaluated(formula, BOOK) == error


@pytest.mark.parametrize(
    "formula",
    ["", "=", "=SUM(", "=1+", "=(1", "=1)", "=1 2", '="a', "=A1:B", "=$", "=" + "(" * 50 + "1",
     "=" + "1+" * 2000 + "1", "=__import__('os')", "=ZZZ1:A1", "=1;2"],
)  # fmt: skip
def test_what_is_no_formula_is_refused(formula: str) -> None:
    with pytest.raises(FormulaError):
        evaluated(formula, BOOK)


def test_arithmetic_needs_no_workbook() -> None:
    assert worked_out("14+9") == 23
    assert told(worked_out("0.1+0.2")) == "0.3"
    assert worked_out("A1") == "#REF!"


def test_formulas_are_worked_out_in_the_order_that_they_need() -> None:
    sheet = Sheet("S", {(1, 1): 2}, {(1, 2): "=C1*2", (1, 3): "=A1+1", (1, 4): "=SUM(A1:C1)"})
    found = calculated(Book({"S": sheet})).sheets["S"].cells
    assert [found[1, column] for column in (1, 2, 3, 4)] == [2, 6, 3, 11]


def test_a_long_chain_does_not_run_out_of_stack() -> None:
    formulas = {(row, 1): f"=A{row + 1}+1" for row in range(1, 5000)}
    found = calculated(Book({"S": Sheet("S", {(5000, 1): 0}, formulas)})).sheets["S"].cells
    assert found[1, 1] == 4999


def test_cycles_and_what_reads_them_are_errors() -> None:
    formulas = {(1, 1): "=B1", (1, 2): "=A1+1", (1, 3): "=B1*2", (1, 4): "=D1", (1, 5): "=1+1"}
    formulas |= {(1, 6): "=IFERROR(A1,7)", (1, 7): "=SUM(", (1, 8): "=G1&1"}
    found = calculated(Book({"S": Sheet("S", {}, formulas)})).sheets["S"].cells
    assert [found[1, column] for column in range(1, 5)] == ["#CYCLE!"] * 4
    assert [found[1, column] for column in range(5, 9)] == [2, 7, "#NAME?", "#NAME?"]


def test_own_formulas_may_read_a_hidden_sheet() -> None:
    sheets = {"S": Sheet("S", {}, {(1, 1): "=Secret!A1+1"}), "Secret": SECRET}
    assert calculated(Book(sheets)).sheets["S"].cells[1, 1] == 100


def test_values_that_a_file_keeps_are_kept() -> None:
    sheet = Sheet("S", {(1, 1): 5}, {(1, 1): "=NOT.KNOWN.HERE(1)"})
    assert calculated(Book({"S": sheet})).sheets["S"].cells[1, 1] == 5


def test_too_many_formulas_are_refused_and_not_waited_for() -> None:
    formulas = {(row, 1): "=SUM(B:B)" for row in range(1, 20_002)}
    with pytest.raises(FormulaError, match="more than"):
        calculated(Book({"S": Sheet("S", {}, formulas)}))
    wide = {(row, 1): f"=SUM(A{row + 1}:A5000)" for row in range(1, 4000)}
    with pytest.raises(FormulaError, match="too many cells"):
        calculated(Book({"S": Sheet("S", {(5000, 1): 1}, wide)}))
