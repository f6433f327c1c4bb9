"""Workbooks from files: what is read, that both ways give the same, and every way to be refused."""

from __future__ import annotations

import io
import sys
import zipfile
from datetime import date, datetime
from pathlib import Path

import pytest

from upslope.tables import made, reading
from upslope.tables.bench import Bench
from upslope.tables.book import Book, Sheet, told
from upslope.tables.reading import Dialect, parsed_csv, read
from upslope.tables.references import Area
from upslope.tables.writing import write_xlsx
from upslope.types import UserError

openpyxl = pytest.importorskip("openpyxl")


def test_a_written_workbook_reads_as_it_was(tmp_path: Path) -> None:
    cells = {(1, 1): "a", (2, 1): 1, (3, 1): 2.5, (4, 1): True, (5, 1): date(2024, 3, 1)}
    cells |= {(6, 1): datetime(2024, 3, 1, 12, 30), (7, 1): "#N/A", (2, 3): "x"}
    formulas = {(2, 2): "=A2*2", (3, 2): "=B2/0", (4, 2): "=B4", (5, 2): "=NOPE(A1)"}
    sheet = Sheet("One", cells, formulas, (Area("", 1, 1, 1, 3),), {(3, 1): '0.00" kg"'})
    book = Book({"One": sheet, "Two": Sheet("Two", {(1, 1): 9}, hidden=True)}, {"All": "One!A2:A3"})
    write_xlsx(book, tmp_path / "a.xlsx")
    found = read(tmp_path / "a.xlsx")
    one = found.sheets["One"]
    values = {(2, 2): 2, (3, 2): "#DIV/0!", (4, 2): "#CYCLE!", (5, 2): "#NAME?"}
    assert dict(one.cells) == {**cells, **values}
    assert (one.formulas, one.merged, one.hidden) == (formulas, sheet.merged, False)
    assert one.formats[3, 1] == '0.00" kg"'
    assert found.sheets["Two"].hidden
    assert found.names == {"All": "One!A2:A3"}


def test_a_made_workbook_answers_the_same_from_memory_and_from_a_file(tmp_path: Path) -> None:
    for number in range(6):
        book = made.asked(1, made.KINDS, number).book
        write_xlsx(book, tmp_path / "a.xlsx")
        ours, theirs = Bench(book), Bench(read(tmp_path / "a.xlsx"))
        assert ours.list_sheets() == theirs.list_sheets()
        for sheet in book.shown:
            name = f"'{sheet.name}'"
            assert ours.head(sheet.name, 20) == theirs.head(sheet.name, 20)
            part = f"{name}!A1:{'C' if sheet.columns > 2 else 'A'}30"
            assert ours.read_range(part) == theirs.read_range(part)
            query = f'select * from "{sheet.name}" limit 20'
            assert ours.sql(query) == theirs.sql(query)
            assert ours.describe(sheet.name, "A") == theirs.describe(sheet.name, "A")
            for formula in (f"=SUM({name}!A1:I90)", f"=COUNTA({name}!A:I)", f"=MAX({name}!B:B)"):
                assert ours.formula(formula) == theirs.formula(formula)
        assert ours.find("1") == theirs.find("1")


def saved(path: Path, change: dict[str, bytes]) -> Path:
    """A small workbook with files put into it, or in place of its own."""
    book = openpyxl.Workbook()
    book.worksheets[0]["A1"] = 5
    raw = io.BytesIO()
    book.save(raw)
    with zipfile.ZipFile(raw) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name in given.namelist():
            out.writestr(name, change.get(name, given.read(name)))
        for name in change.keys() - set(given.namelist()):
            out.writestr(name, change[name])
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"xl/vbaProject.bin": b"x"}, "macros"),
        ({"xl/workbook.xml": b"<workbook"}, "damaged"),
        ({"xl/worksheets/sheet1.xml": b"nothing"}, "damaged"),
        ({"[Content_Types].xml": b"<Types/>"}, "damaged"),
        (
            {"xl/sharedStrings.xml": b'<!DOCTYPE x [<!ENTITY a "b">]><sst>&a;</sst>'},
            "declares XML entities",
        ),
        ({"xl/media/big.png": b"\0" * (reading.UNPACKED + 1)}, "unpacks to more than"),
    ],
)
def test_unsound_workbooks_are_refused(change: dict[str, bytes], said: str, tmp_path: Path) -> None:
    assert read(saved(tmp_path / "good.xlsx", {})).sheet().cells == {(1, 1): 5}
    with pytest.raises(UserError, match=said) as seen:
        read(saved(tmp_path / "bad.xlsx", change))
    assert "bad.xlsx" in str(seen.value)


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.xlsx", reading.OLD + b"x" * 600, "encrypted"),
        ("a.xlsx", b"no zip at all", "damaged"),
        ("a.xlsx", b"", "damaged"),
        ("a.xlsx", b"PK\x03\x04" + b"\0" * 100, "damaged"),
        ("a.xlsm", b"PK", "macros"),
        ("a.xls", b"", "no workbook that is read here"),
        ("a.csv", b"a,\xe9\n", "not UTF-8 .byte 2"),
        ("a.csv", b"a\0b\n", "NUL"),
        ("a.csv", b'a,b\n"x,1\ny,2\n', "line 3: .*quotation marks"),
        ("a.csv", b'a,b\n"x"y,1\n', "line 2: .*quotation marks"),
        ("a.csv", b"," * 2000, "more than .* columns"),
    ],
)
def test_unsound_files_are_refused(name: str, raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=said):
        read(tmp_path / name)


def test_what_is_not_there_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4\n")
    monkeypatch.setattr(reading, "CELLS", 3)
    with pytest.raises(UserError, match="more than 3 cells"):
        read(tmp_path / "a.csv")
    monkeypatch.setattr(reading, "PACKED", 2)
    with pytest.raises(UserError, match="larger than"):
        read(tmp_path / "a.csv")


def test_a_password_is_no_way_in(tmp_path: Path) -> None:
    raw = bytearray(saved(tmp_path / "a.xlsx", {}).read_bytes())
    place = raw.index(b"PK\x01\x02")
    raw[place + 8] |= 1  # the flag of an encrypted entry
    raw[6] |= 1
    (tmp_path / "a.xlsx").write_bytes(raw)
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "a.xlsx")


def test_plain_text_is_typed_where_it_is_plain() -> None:
    raw = b'n,v\r\n"a ""b""",007\r\n2024-03-01,1.5\r\n-3,"1,234"\r\n2024-13-01,1e3\r\n'
    sheet = parsed_csv(raw, "t", "t")
    assert sheet.row(2) == ['a "b"', "007"]
    assert sheet.row(3) == [date(2024, 3, 1), 1.5]
    assert sheet.row(4) == [-3, "1,234"]
    assert sheet.row(5) == ["2024-13-01", "1e3"]


def test_other_encodings_and_dialects() -> None:
    assert parsed_csv("\ufeffa,é".encode(), "t", "t").row(1) == ["a", "é"]
    assert parsed_csv("a,é".encode("utf-16"), "t", "t").row(1) == ["a", "é"]
    wiki = Dialect(escape="\\")
    assert parsed_csv(b'"a \\"b\\"",1', "t", "t", wiki).row(1) == ['a "b"', 1]
    facts = Dialect(separator="#", quoted=False)
    assert parsed_csv(b'a "b#"c', "t", "t", facts).row(1) == ['a "b', '"c']


def test_an_empty_sheet_is_a_workbook_that_says_so() -> None:
    bench = Bench(Book({"t": parsed_csv(b"\n\n", "t", "t")}))
    assert bench.list_sheets() == "t: 0 rows, 0 columns: "
    assert bench.head("t") == "the sheet is empty"
    assert bench.find("a") == "nothing found"
    assert told(None) == ""


def test_formulas_over_several_cells_are_formulas(tmp_path: Path) -> None:
    from openpyxl.worksheet.formula import ArrayFormula, DataTableFormula

    given = openpyxl.Workbook()
    sheet = given.worksheets[0]
    sheet["A1"], sheet["A2"] = 3, 4
    sheet["B1"] = ArrayFormula("B1:B1", "=SUMPRODUCT(A1:A2,A1:A2)")
    sheet["B2"] = DataTableFormula("B2:B3")
    given.save(tmp_path / "a.xlsx")
    assert read(tmp_path / "a.xlsx").sheet().cells == {
        (1, 1): 3,
        (2, 1): 4,
        (1, 2): 25,
        (2, 2): "#NAME?",
    }


def test_an_import_that_is_missing_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.xlsx", {})
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"pip install 'upslope\[tables\]'"):
        read(path)
    with pytest.raises(UserError, match=r"pip install 'upslope\[tables\]'"):
        write_xlsx(Book({}), tmp_path / "b.xlsx")
