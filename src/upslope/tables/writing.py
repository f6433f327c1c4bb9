"""A workbook as an .xlsx file: values, formulas, merged areas, formats, hidden sheets, names."""

from __future__ import annotations

from pathlib import Path

from upslope.tables.book import Book
from upslope.tables.reading import INSTALL
from upslope.types import UserError


def write_xlsx(book: Book, path: Path) -> None:
    """Write it; a formula is written as such, without its value, as openpyxl does."""
    try:
        import openpyxl
        from openpyxl.workbook.defined_name import DefinedName
    except ImportError as error:
        raise UserError(INSTALL) from error
    out = openpyxl.Workbook()
    out.remove(out.worksheets[0])
    for sheet in book.sheets.values():
        made = out.create_sheet(sheet.name)
        for place, value in sheet.cells.items():
            made.cell(*place, value=value)
        for place, formula in sheet.formulas.items():
            made.cell(*place, value=formula)
        for place, shape in sheet.formats.items():
            made.cell(*place).number_format = shape
        for area in sheet.merged:
            made.merge_cells(None, area.top, area.left, area.bottom, area.right)
        if sheet.hidden:
            made.sheet_state = "hidden"
    for name, reference in book.names.items():
        out.defined_names[name] = DefinedName(name, attr_text=reference)
    out.save(path)
