"""The SQLite file of a store of preferences: opening, transactions, and failures as one sentence.

What is in its tables is in ``tables``, what they mean in ``store``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upslope.preferences.tables import OURS, TABLES, VERSION
from upslope.types import UserError

WAIT = 60.0  # seconds for another process to finish its transaction
NAP = 0.02  # seconds between tries where SQLite itself does not wait


class Database:
    """One connection. A commit is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; UserError where it is no store, or of a newer Upslope."""
        self.path = path
        with self._told():
            self._db = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        try:
            with self._told():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """What a query finds."""
        with self._told():
            return self._db.execute(query, values).fetchall()

    def first(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """The first of it, or None."""
        with self._told():
            return self._db.execute(query, values).fetchone()

    def change(self, query: str, values: Sequence[Any]) -> sqlite3.Cursor:
        """A statement within ``writing``."""
        with self._told():
            return self._db.execute(query, values)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing, with no other writer meanwhile."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    def _prepare(self) -> None:
        """Make the tables where the file is new; UserError where it is something else."""
        own, version = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if own == OURS and version > VERSION:
            raise UserError(
                f"{self.path} was written by a newer Upslope (its tables are of version {version}, "
                f"and this one knows {VERSION}): install that one"
            )
        if own != OURS and self._tables():
            raise UserError(f"{self.path} is another program's database: name another file")
        self._share()
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA synchronous = FULL")
        if own == OURS:
            return
        with self.writing():
            if self._tables():
                return  # another process was faster
            for statement in filter(str.strip, TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {OURS}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _tables(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def _share(self) -> None:
        """Let readers read while one writes. SQLite does not wait for others here, so this does."""
        until = time.monotonic() + WAIT
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(NAP)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite says as one sentence."""
        try:
            yield
        except sqlite3.Error as error:
            cure = "make room, wait for who writes to it, or restore it from a copy"
            raise UserError(
                f"the store of preferences {self.path} failed ({error}): {cure}"
            ) from error
