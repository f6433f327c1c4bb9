"""Workbooks from files, .xlsx and .csv: whatever is wrong with one is said in one sentence.

Nothing of a file is run, and no link is followed: a workbook with macros is refused. Sizes are
looked at before anything is unpacked.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from upslope.tables.book import Book, Sheet, Value, told
from upslope.tables.recalculated import calculated
from upslope.tables.references import Area, Place
from upslope.tables.syntax import FormulaError
from upslope.types import UserError

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

PACKED, UNPACKED = 20 * 2**20, 100 * 2**20  # bytes of a file, and of what a workbook unpacks to
CELLS, ROWS, COLUMNS = 500_000, 200_000, 1000
OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # how old workbooks and encrypted ones begin
WHOLE = re.compile(r"[-+]?(?:0|[1-9]\d{0,14})", re.ASCII)
BROKEN = re.compile(r"[-+]?(?:0|[1-9]\d{0,14})?\.\d+(?:[eE][-+]?\d{1,3})?", re.ASCII)
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
INSTALL = "reading and writing .xlsx needs openpyxl: pip install 'upslope[tables]'"


@dataclass(frozen=True)
class Dialect:
    """How a file of plain text writes its cells. ``typed``: whether numbers are read as such."""

    separator: str = ","
    quoted: bool = True
    escape: str | None = None  # in place of a quotation mark said twice
    typed: bool = True


PLAIN = Dialect()


def read(path: Path) -> Book:
    """A workbook or a table by its file's name; UserError for what cannot be read."""
    kinds: dict[str, Callable[[Path], Book]] = {".xlsx": read_xlsx, ".csv": read_csv}
    if path.suffix.lower() in (".xlsm", ".xltm", ".xlam"):
        raise UserError(f"{path} may hold macros: save it as .xlsx without them")
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path} is no workbook that is read here: give an .xlsx or a .csv file")
    return kinds[path.suffix.lower()](path)


def read_csv(path: Path, dialect: Dialect = PLAIN) -> Book:
    """A table of plain text as a workbook of one sheet, named as the file is."""
    return Book({path.stem: parsed_csv(_bytes(path), path.stem, str(path), dialect)})


def parsed_csv(raw: bytes, name: str, where: str, dialect: Dialect = PLAIN) -> Sheet:
    """A sheet of a file's bytes; UserError naming ``where`` it is from."""
    try:
        utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start
        raise UserError(f"{where} is not UTF-8 (byte {at}): save it in that encoding") from error
    if "\0" in text:
        raise UserError(f"{where} has NUL characters: it is no table of plain text")
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.separator,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        doublequote=dialect.escape is None,
        escapechar=dialect.escape,
        strict=True,
    )
    cells: dict[Place, Value] = {}
    try:
        for row, line in enumerate(reader, 1):
            _bounded(where, len(cells), row, len(line))
            for column, said in enumerate(line, 1):
                if said.strip():
                    cells[row, column] = typed(said.strip()) if dialect.typed else said
    except csv.Error as error:
        raise UserError(
            f"{where}, line {reader.line_num}: {error}: mend the quotation marks there"
        ) from error
    return Sheet(name, cells)


def typed(text: str) -> Value:
    """A plain number or a date of the form 2024-03-01 as such; anything else as it is."""
    if WHOLE.fullmatch(text):
        return int(text)
    if BROKEN.fullmatch(text):
        return float(text)
    if DAY.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            return text
    return text


def read_xlsx(path: Path) -> Book:
    """A workbook with its values; formulas whose values the file does not keep are worked out."""
    _sound(path)
    spelt = _opened(path, False)
    kept = _opened(path, True)
    sheets: dict[str, Sheet] = {}
    for name in spelt.sheetnames:
        ours, values = spelt[name], kept[name]
        if ours not in spelt.worksheets:
            continue  # a chart on a sheet of its own
        sheets[name] = _sheet(f"{path}, sheet {name!r}", ours, values)
    names = {str(n): str(d.attr_text) for n, d in spelt.defined_names.items() if d.attr_text}
    try:
        return calculated(Book(sheets, {n: t for n, t in names.items() if _cells_named(t)}))
    except FormulaError as error:
        raise UserError(f"{path}: {error}: save it in a spreadsheet, which keeps values") from error


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > PACKED:
            raise UserError(
                f"{path} is larger than {PACKED // 2**20} MiB: take out what is not asked"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _sound(path: Path) -> None:
    """UserError for what openpyxl should not see: encrypted, huge, with macros, no workbook."""
    raw = _bytes(path)
    if raw.startswith(OLD):
        raise UserError(f"{path} is encrypted, or an old .xls: save it as .xlsx without a password")
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            held = packed.infolist()
            if sum(entry.file_size for entry in held) > UNPACKED:
                size = UNPACKED // 2**20
                raise UserError(
                    f"{path} unpacks to more than {size} MiB: take out what is not asked"
                )
            if any(entry.filename.endswith("vbaProject.bin") for entry in held):
                raise UserError(f"{path} has macros: save it as .xlsx without them")
            for entry in held:
                if (
                    entry.filename.endswith((".xml", ".rels"))
                    and b"<!" in packed.read(entry)[:2000]
                ):
                    raise UserError(f"{path} declares XML entities, which no spreadsheet writes")
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{path} is no workbook, or a damaged one: {error}") from error


def _opened(path: Path, values: bool) -> Workbook:
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(INSTALL) from error
    faults = (zipfile.BadZipFile, KeyError, ValueError, TypeError, ParseError, OSError, IndexError)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it leaves out: styles, validation, charts
            return openpyxl.load_workbook(file, data_only=values, keep_links=False)
    except (*faults, AttributeError, AssertionError) as error:
        raise UserError(f"{path} is a damaged workbook: {error}") from error


def _sheet(where: str, ours: Worksheet, values: Worksheet) -> Sheet:
    """One sheet from both readings: its formulas, and what the file keeps of their values."""
    cells: dict[Place, Value] = {}
    formulas: dict[Place, str] = {}
    formats: dict[Place, str] = {}
    for row, column, raw, shape in _cells(ours):
        _bounded(where, len(cells), row, column)
        if isinstance(raw, str) and raw.startswith("=") and len(raw) > 1:
            formulas[row, column] = raw
            raw = values.cell(row, column).value
        value = _plain(raw)
        if value is not None:
            cells[row, column] = value
        if shape != "General":
            formats[row, column] = shape
    merged = tuple(
        Area("", a.min_row, a.min_col, a.max_row, a.max_col) for a in ours.merged_cells.ranges
    )
    merged = tuple(sorted(merged, key=lambda a: (a.top, a.left)))
    return Sheet(ours.title, cells, formulas, merged, formats, ours.sheet_state != "visible")


def _cells(sheet: Worksheet) -> Iterator[tuple[int, int, object, str]]:
    """Row, column, what stands there, and its number format, of cells that are not blank."""
    from openpyxl.worksheet.formula import ArrayFormula, DataTableFormula

    for row in sheet.iter_rows():
        for cell in row:
            raw = cell.value
            if isinstance(raw, ArrayFormula | DataTableFormula):
                text = raw.text if isinstance(raw, ArrayFormula) else ""
                raw = f"={(text or 'TABLE()').lstrip('=')}"
            if raw is not None:
                yield int(cell.row), int(cell.column), raw, str(cell.number_format)


def _plain(raw: object) -> Value:
    """A cell's value as one of ours: a moment without a time is a day."""
    if isinstance(raw, datetime):
        return raw.date() if raw.time() == time() else raw
    if isinstance(raw, str):
        return raw if raw.strip() else None
    if raw is None or isinstance(raw, int | float | bool | date):
        return raw
    return told(str(raw))


def _cells_named(text: str) -> bool:
    from upslope.tables.references import area_of

    try:
        return bool(area_of(text).sheet)
    except ValueError:
        return False


def _bounded(where: str, cells: int, row: int, column: int) -> None:
    if cells > CELLS or row > ROWS or column > COLUMNS:
        raise UserError(
            f"{where} has more than {CELLS} cells, {ROWS} rows or {COLUMNS} columns: take out what "
            "is not asked"
        )
