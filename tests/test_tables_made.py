"""Made workbooks: what records say is right is what SQL finds in the sheets, for many draws."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from upslope.rewards.denotation import agrees, joined
from upslope.tables import made, tiny
from upslope.tables.asked import Question
from upslope.tables.bench import cells_of
from upslope.tables.book import Book, Value, told
from upslope.tables.columns import table_of
from upslope.tables.reading import read_xlsx
from upslope.tables.references import areas_of, place_of
from upslope.tables.sql import Database
from upslope.tables.writing import write_xlsx


def found(question: Question, book: Book) -> list[str]:
    """What the question's SQL gives over a workbook."""
    rows = Database(book, 5.0).query(question.sql)[1]
    return [told(v) for row in rows for v in row if v is not None and not isinstance(v, bytes)]


def confirmed(question: Question, book: Book) -> bool:
    """Whether the second opinion is the first."""
    said = found(question, book)
    if not question.gold:
        return not said
    return agrees(joined(said), question.gold, 1e-9)


def test_records_and_sql_agree_over_many_workbooks() -> None:
    kinds: Counter[str] = Counter()
    for number in range(400):
        question = made.asked(7, made.KINDS, number)
        if question.sql:
            kinds[question.kind] += 1
            assert confirmed(question, question.book), (number, question.text)
    assert set(kinds) == set(made.KINDS)
    assert min(kinds.values()) > 5


def test_records_and_sql_agree_over_written_workbooks(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    for number in range(12):
        question = made.asked(8, made.KINDS, number)
        if question.sql:
            write_xlsx(question.book, tmp_path / "a.xlsx")
            assert confirmed(question, read_xlsx(tmp_path / "a.xlsx")), question.text


def test_records_and_sql_agree_over_ladder_workbooks() -> None:
    kinds: Counter[str] = Counter()
    for number in range(700):
        question = tiny.asked(3, tiny.KINDS, number)
        kinds[question.kind] += 1
        assert confirmed(question, question.book), (number, question.text)
    assert min(kinds[kind] for kind in tiny.KINDS) > 50


def test_a_wrong_gold_is_not_confirmed() -> None:
    """The check fires: neither another number nor a changed cell agrees."""
    question = next(q for n in range(50) if (q := made.asked(0, ["sum"], n)).gold)
    first = sorted(question.cells)[0]
    sheet = question.book.sheets[first.partition("!")[0]]
    place = place_of(first.partition("!")[2])
    value = sheet.cells[place]
    assert isinstance(value, int | float)
    changed = {**sheet.cells, place: value + 50}
    other = Book({**question.book.sheets, sheet.name: type(sheet)(sheet.name, changed)})
    assert confirmed(question, question.book)
    assert not confirmed(question, other)


def value_at(book: Book, cell: str) -> Value:
    sheet, _, place = cell.rpartition("!")
    return book.sheets[sheet].cells.get(place_of(place))


@pytest.mark.parametrize("kind", ["lookup", "sum", "median", "period", "argmax"])
def test_gold_cells_hold_what_the_answer_rests_on(kind: str) -> None:
    for number in range(20):
        question = made.asked(1, [kind], number)
        held = [value_at(question.book, cell) for cell in sorted(question.cells)]
        numbers = sorted(v for v in held if isinstance(v, int | float))
        if kind in ("sum", "period"):
            assert agrees(told(float(sum(numbers))), question.gold, 1e-9)
        elif kind == "median":
            middle = (numbers[(len(numbers) - 1) // 2] + numbers[len(numbers) // 2]) / 2
            assert agrees(told(middle), question.gold, 1e-9)
        else:
            assert question.gold[0] in [told(value) for value in held]
        assert cells_of(areas_of(", ".join(question.cells)), question.book) == question.cells


def test_workbooks_have_what_offices_put_into_them() -> None:
    books = [made.asked(0, made.KINDS, number).book for number in range(40)]
    seen: Counter[str] = Counter()
    for book in books:
        draft = book.sheets["Draft"]
        assert draft.hidden
        assert draft not in book.shown
        main = next(s for s in book.shown if s.columns == 7 and "2019" not in s.name)
        assert main.formulas
        assert draft.cells != main.cells
        assert all(where in book.sheets for where in (f"{main.name} 2019", "Plan", "Notes"))
        table = table_of(main)
        seen["deep"] += table.first - table.header == 2
        seen["heading"] += table.header == 3
        seen["totals"] += (main.rows, 1) in main.cells and main.cells[main.rows, 1] == "Total"
        seen["merged"] += bool(main.merged)
        seen["blank"] += any(None in values for _, values in table.rows())
        assert 8 <= sum(str(v[0]).startswith(("OR-", "SH-", "RE-")) for _, v in table.rows()) <= 60
        assert table_of(book.sheet("Plan")).titles[1] == "2022 Q1"
    assert all(10 <= seen[name] <= 40 for name in ("deep", "heading", "totals", "merged", "blank"))


def test_the_same_number_is_the_same_question() -> None:
    assert made.asked(0, made.KINDS, 5) == made.asked(0, made.KINDS, 5)
    assert made.asked(0, made.KINDS, 5).text != made.asked(0, made.KINDS, 6).text
    assert tiny.asked(0, tiny.KINDS, 5) == tiny.asked(0, tiny.KINDS, 5)
    assert tiny.asked(0, tiny.KINDS, 5).book != tiny.asked(1, tiny.KINDS, 5).book


def test_ladder_workbooks_are_small() -> None:
    for number in range(50):
        question = tiny.asked(0, tiny.KINDS, number)
        sheet = question.book.sheet()
        assert (sheet.rows, sheet.columns) == (9, 6)
        assert len(question.text) < 60
        assert len(question.calls) <= 4
