"""Questions over tables from data sets as they are given out, and from a file of your own.

WikiTableQuestions (arXiv:1508.00305): ``training.examples`` and its tables; TabFact
(arXiv:1909.02164): statements that are true or false of a table. Tables lie in a folder ``csv`` or
in the archive that each comes in. Nothing is fetched, and nothing of them is kept here.
"""

from __future__ import annotations

import json
import lzma
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upslope.tables.book import Book
from upslope.tables.reading import Dialect, parsed_csv, read
from upslope.types import UserError

WIKI = Dialect(escape="\\", typed=True)
FACTS = Dialect(separator="#", quoted=False)
TEXT = r'"((?:[^"\\]|\\.)*)"'
EXAMPLE = re.compile(
    rf"\(example \(id ([^)\s]+)\) \(utterance {TEXT}\) "
    rf"\(context \(graph tables\.TableKnowledgeGraph ([^)\s]+)\)\) \(targetValue (.*)\)\)\s*"
)
VALUE = re.compile(rf"\(description {TEXT}\)")
ARCHIVES = ("csv.tar.xz", "test_csv.tar.xz", "all_csv.tar.xz")


@dataclass(frozen=True)
class Row:
    """A question, its gold values (none: it cannot be answered), cells, and its table's name."""

    id: str
    question: str
    gold: tuple[str, ...]
    table: str
    cells: str = ""


def wikitables(folder: Path) -> list[Row]:
    """The questions of ``training.examples``; UserError for a line that is none."""
    found = []
    for number, text in enumerate(_text(folder / "training.examples").splitlines(), 1):
        match = EXAMPLE.fullmatch(text)
        if match is None:
            raise UserError(f"{folder / 'training.examples'}, line {number} is no example")
        gold = tuple(_plain(said) for said in VALUE.findall(match[4]))
        found.append(Row(match[1], _plain(match[2]), gold, match[3].removeprefix("csv/")))
    return found


def tabfact(folder: Path) -> list[Row]:
    """The statements of each ``*_examples.json``, true or false."""
    found = []
    files = sorted(folder.glob("*_examples.json"))
    if not files:
        raise UserError(f"{folder} has no file that ends in _examples.json")
    for file in files:
        try:
            held: Mapping[str, Any] = json.loads(_text(file))
            for table, (statements, labels, *_) in held.items():
                for at, (said, label) in enumerate(zip(statements, labels, strict=True)):
                    question = f"True or false: {said}"
                    gold = ("true" if label else "false",)
                    found.append(Row(f"{table}-{at}", question, gold, table))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file} has not the form of TabFact's examples: {error}") from error
    return found


def tables_of(folder: Path, names: Sequence[str], dialect: Dialect) -> dict[str, Book]:
    """The tables of these names, each a workbook of one sheet."""
    wanted = set(names)
    found: dict[str, Book] = {}
    for name, raw in _files(folder, wanted):
        stem = re.sub(r"\W+", "_", Path(name).name.removesuffix(".csv").removesuffix(".html"))
        found[name] = Book({stem: parsed_csv(raw, stem, f"{folder}: {name}", dialect)})
    missing = sorted(wanted - found.keys())
    if missing:
        raise UserError(f"{folder} has no table {missing[0]!r}: unpack its csv files there")
    return found


def books_of(paths: Sequence[Path]) -> dict[str, Book]:
    """Workbooks of one's own by their paths; UserError for the first that cannot be read."""
    return {str(path): read(path) for path in dict.fromkeys(paths)}


def _files(folder: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    for place in (folder / "csv", folder / "all_csv"):
        if place.is_dir():
            for name in sorted(wanted):
                if (place / name).is_file():
                    yield name, (place / name).read_bytes()
            return
    archives = [folder / name for name in ARCHIVES if (folder / name).is_file()]
    if not archives:
        raise UserError(f"{folder} has neither a folder csv nor an archive of it")
    try:
        with tarfile.open(archives[0], "r:xz") as archive:
            for member in archive:
                name = member.name.partition("csv/")[2]
                if member.isfile() and name in wanted:
                    file = archive.extractfile(member)
                    if file is not None:
                        yield name, file.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise UserError(f"{archives[0]} is damaged: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _plain(said: str) -> str:
    return re.sub(r"\\(.)", r"\1", said)
