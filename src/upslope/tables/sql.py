"""Read-only SQL over a workbook's tables, in SQLite: bounded in time, rows, memory and reach.

An authorizer lets through nothing but reading these tables and pure functions; no file is touched.
Each table has its sheet's name, its columns' titles, and ``row``: the row's number in the sheet.
"""

from __future__ import annotations

import sqlite3
import time
from datetime import date

from upslope.tables.book import Book, Value, told
from upslope.tables.columns import Table, table_of

SECONDS, ROWS, TEXT = 0.05, 100, 100_000
STEPS = 2000  # of SQLite's machine between two looks at the clock
READING = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
)
REFUSED = frozenset(
    ("load_extension", "fts3_tokenizer", "randomblob", "zeroblob", "random", "sqlite_version")
)
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: TEXT,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 10,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COLUMN: 2000,
}
Cells = tuple[Value | bytes, ...]


class QueryError(Exception):
    """A query that is not answered; its text says why."""


class Database:
    """A book's tables in memory. Made when first asked, and used by one query at a time."""

    def __init__(self, book: Book, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._until = 0.0
        self._link = sqlite3.connect(":memory:", check_same_thread=False)
        self._link.execute("PRAGMA temp_store = MEMORY")
        # Names that differ in case alone, which no spreadsheet writes, are one to SQL.
        for sheet in {sheet.name.casefold(): sheet for sheet in book.shown}.values():
            table = table_of(sheet)
            if table.titles:
                self._fill(table)
        self._link.commit()
        for limit, value in LIMITS.items():
            self._link.setlimit(limit, value)
        self._link.set_authorizer(_allowed)
        self._link.set_progress_handler(self._late, STEPS)

    def query(self, text: str) -> tuple[list[str], list[Cells], bool]:
        """Titles, at most ``ROWS`` rows, and whether there were more; QueryError for a reason."""
        self._until = time.monotonic() + self.seconds
        try:
            found = self._link.execute(text)
            if found.description is None:
                raise QueryError("only a SELECT is answered")
            titles = [str(column[0]) for column in found.description]
            rows = found.fetchmany(ROWS + 1)
            found.close()
        except sqlite3.Error as error:
            raise QueryError(self._reason(error)) from error
        except (sqlite3.Warning, ValueError, OverflowError) as error:
            raise QueryError(str(error)) from error
        return titles, rows[:ROWS], len(rows) > ROWS

    def close(self) -> None:
        """Give its memory back."""
        self._link.close()

    def _late(self) -> int:
        return time.monotonic() > self._until

    def _reason(self, error: sqlite3.Error) -> str:
        said = str(error)
        if said == "interrupted":
            return f"the query took more than {1000 * self.seconds:g} ms"
        if "prohibited" in said or "not authorized" in said:
            return "only a SELECT over the sheets is answered"
        return said

    def _fill(self, table: Table) -> None:
        columns = ", ".join(_quoted(name) for name in ("row", *table.titles))
        name = _quoted(table.sheet.name)
        self._link.execute(f"CREATE TABLE {name} ({columns})")
        places = ", ".join("?" * (len(table.titles) + 1))
        rows = [(number, *map(_stored, values)) for number, values in table.rows()]
        self._link.executemany(f"INSERT INTO {name} VALUES ({places})", rows)


def _allowed(action: int, one: str | None, two: str | None, _: str | None, __: str | None) -> int:
    """Reading the tables, but not the schema, and functions that reach nothing outside."""
    if action not in READING:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_READ and (one or "").casefold().startswith("sqlite_"):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (two or "").casefold() in REFUSED:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _stored(value: Value) -> str | int | float | None:
    """As SQLite keeps it: dates as 2024-03-01, truth as 1 and 0."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, date):
        return told(value)
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value)
    return value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("\0", "") + '"'
