"""Passages ranked for a query by BM25, in SQLite's full-text index (FTS5): built once, kept.

An index is a file named by a hash of what it is made from, so that a corpus that changes has
another one. Who builds it holds a lock and renames a whole file into place; processes that read it
do so without one. SQLite's BM25 has k1 = 1.2 and b = 0.75 and weighs a word in more than half of
all passages next to nothing.
"""

from __future__ import annotations

import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from upslope.retrieval.passages import Corpus, Passage
from upslope.types import UserError

WORD = re.compile(r"[^\W_]+")
TERMS = 32  # different words of a query that are looked for
LOOKED = 4000  # characters of a query that are looked at
TITLE = 2.0  # what a word in a title counts beside one in the text
TABLES = """
CREATE TABLE passages (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, title TEXT, text TEXT);
CREATE VIRTUAL TABLE words USING fts5(
    title, text, content='passages', content_rowid='number',
    tokenize="porter unicode61 remove_diacritics 2"
);
"""
ADDED = "INSERT INTO passages VALUES (?, ?, ?, ?)"
INDEXED = "INSERT INTO words (words) VALUES ('rebuild')"
FOUND = f"""
SELECT id, title, text FROM (
    SELECT rowid AS place, bm25(words, {TITLE}, 1.0) AS score FROM words
    WHERE words MATCH ? ORDER BY score, place LIMIT ?
) JOIN passages ON number = place ORDER BY score, place
"""


class Searches(Protocol):
    """What ranks passages for a query."""

    def search(self, query: str, k: int) -> Sequence[Passage]:
        """The ``k`` best, best first, equals in the corpus's order; none where no word is found."""

    def read(self, name: str) -> Passage | None:
        """The passage of an id."""


@dataclass(frozen=True)
class Index:
    """An open full-text index."""

    connection: sqlite3.Connection

    def search(self, query: str, k: int) -> Sequence[Passage]:
        """By BM25 over the query's different words, any of which may be missing."""
        words = words_of(query)
        if not words:
            return []
        wanted = " OR ".join(f'"{word}"' for word in words)
        return [Passage(*row) for row in self.connection.execute(FOUND, (wanted, k))]

    def read(self, name: str) -> Passage | None:
        """The passage of an id."""
        asked = "SELECT id, title, text FROM passages WHERE id = ?"
        row = self.connection.execute(asked, (_plain(name),)).fetchone()
        return Passage(*row) if row else None

    def at(self, number: int) -> Passage:
        """The passage of a place in the corpus, from 1."""
        asked = "SELECT id, title, text FROM passages WHERE number = ?"
        return Passage(*self.connection.execute(asked, (number,)).fetchone())

    def all(self) -> list[Passage]:
        """Every passage, in the corpus's order."""
        asked = "SELECT id, title, text FROM passages ORDER BY number"
        return [Passage(*row) for row in self.connection.execute(asked)]

    def close(self) -> None:
        """Nothing is asked of it any more."""
        self.connection.close()


def in_memory(passages: Iterable[Passage]) -> Index:
    """An index of a few passages, in no file; half a millisecond. Its owner closes it."""
    index = Index(sqlite3.connect(":memory:", check_same_thread=False))
    _fill(index.connection, passages)
    return index


def words_of(query: str) -> list[str]:
    """The first ``TERMS`` different words of a query: letters and digits, whatever is between."""
    found = WORD.findall(unicodedata.normalize("NFC", query[:LOOKED]))
    # as they are written: the index folds case by rules of its own
    return [*{word.lower(): word for word in found[::-1]}.values()][::-1][:TERMS]


def opened(corpus: Corpus, folder: Path) -> Index:
    """The corpus's index in a folder, built first where there is none; raises UserError."""
    path = folder / f"{corpus.digest()}.sqlite"
    if not _whole(path):
        _build(corpus, path)
    return _open(path.resolve(), os.getpid())


def folder_of(given: str) -> Path:
    """Where indexes are kept: as given, or the user's cache; UserError for no folder."""
    if not given:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(home).expanduser() / "upslope" / "indexes"
    found = Path(given).expanduser()
    if not found.is_dir():
        raise UserError(f"index = {given!r} is no folder: make it, or leave index out")
    return found


@cache
def _open(path: Path, process: int) -> Index:
    """An index that is only read; each process has its own, as SQLite asks for."""
    return Index(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False))


def _whole(path: Path) -> bool:
    """Whether there is an index that was written to its end and can be read."""
    if not path.is_file():
        return False
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        row = connection.execute("SELECT count(*) FROM passages").fetchone()
        connection.execute("SELECT rowid FROM words LIMIT 1").fetchone()
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()
    return bool(row[0])


def _build(corpus: Corpus, path: Path) -> None:
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if _whole(path):  # by another process, meanwhile
                return
            hidden = path.with_name(f".{path.name}.new")
            hidden.unlink(missing_ok=True)
            try:
                connection = sqlite3.connect(hidden)
                try:
                    _fill(connection, corpus.passages())
                finally:
                    connection.close()
                os.replace(hidden, path)
            finally:
                hidden.unlink(missing_ok=True)
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(
            f"the index of {str(corpus.path)!r} cannot be written to {str(path.parent)!r} "
            f"({error}): set index to a folder with room that may be written to"
        ) from error


def _fill(connection: sqlite3.Connection, passages: Iterable[Passage]) -> None:
    try:
        connection.executescript(TABLES)
    except sqlite3.OperationalError as error:
        if "fts5" not in str(error):
            raise
        raise UserError(
            "this Python's SQLite has no full-text search (FTS5): use a Python built with it"
        ) from error
    rows = ((n, p.id, _plain(p.title), _plain(p.text)) for n, p in enumerate(passages, 1))
    connection.executemany(ADDED, rows)
    connection.execute(INDEXED)
    connection.commit()


def _plain(text: str) -> str:
    """Half a surrogate pair, which SQLite refuses, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
