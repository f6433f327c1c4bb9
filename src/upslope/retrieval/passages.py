"""Passages of a corpus: a folder of text and Markdown files, a JSONL file, or BEIR's form.

A file of a folder is cut into passages at its headings and paragraphs; a row of a JSONL file is one
passage. What is in an index is told by ``digest``, a hash of all that it is made from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from upslope.envs.datasets import Row, read_rows
from upslope.types import UserError

BEIR = "corpus.jsonl"
TEXTS = (".txt", ".md", ".markdown")
BLOCK = re.compile(r"\n[ \t]*\n")
HEADING = re.compile(r"#{1,6}[ \t]+(.+?)[ \t#]*")
LONGEST_ID = 200
FORM = "1"  # of passages as they are cut here; another one makes other indexes


@dataclass(frozen=True, slots=True)
class Passage:
    """What is found and read as one piece; ``id`` is how it is cited."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where passages are. ``words``: the most that a passage of a folder's file has."""

    path: Path
    words: int

    @classmethod
    def at(cls, path: str, words: int) -> Corpus:
        """UserError where there is no such folder or file, or it is of another kind."""
        found = Path(path).expanduser()
        if not found.exists():
            raise UserError(
                f"corpus = {path!r} does not exist: give a folder of .txt and .md files, a folder "
                f"with {BEIR}, or a .jsonl file"
            )
        if found.is_file() and found.suffix != ".jsonl":
            raise UserError(
                f"corpus = {path!r} is a file of another kind than .jsonl: give the folder it is in"
            )
        return cls(found, words)

    @property
    def beir(self) -> bool:
        """Whether it is a folder in BEIR form, which may have questions of its own."""
        return (self.path / BEIR).is_file()

    def files(self) -> Sequence[Path]:
        """All that passages are read from, in a fixed order; UserError where there is nothing."""
        if self.path.is_file():
            return [self.path]
        if self.beir:
            return [self.path / BEIR]
        found = [f for f in self.path.rglob("*") if f.suffix.lower() in TEXTS and f.is_file()]
        if not found:
            kinds = f"{', '.join(TEXTS[:-1])} or {TEXTS[-1]}"
            raise UserError(f"corpus = {str(self.path)!r} has no {kinds} file, and no {BEIR}")
        return sorted(found)

    def digest(self) -> str:
        """Of the files' names and content, and of how they are cut."""
        made = hashlib.blake2b(f"{FORM} {self.words}".encode(), digest_size=16)
        for file in self.files():
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "blake2b").hexdigest()
            made.update(f"\n{self._name(file)} {content}".encode("utf-8", "surrogateescape"))
        return made.hexdigest()

    def passages(self) -> Iterator[Passage]:
        """All of them in order; UserError for a broken row, an id given twice, or no passage."""
        seen: dict[str, str] = {}
        for where, passage in self._read():
            if fault := _fault(passage.id):
                raise UserError(f"{where}: the id {passage.id[:40]!r} {fault}: give it another")
            if passage.id in seen:
                raise UserError(
                    f"{where} has the same id {passage.id!r} as {seen[passage.id]}: "
                    "remove one of them, or give it another id"
                )
            seen[passage.id] = where
            yield passage
        if not seen:
            raise UserError(f"corpus = {str(self.path)!r} has no text in any of its files")

    def _read(self) -> Iterator[tuple[str, Passage]]:
        for file in self.files():
            if file.suffix == ".jsonl":
                for row in read_rows(file):
                    yield row.where, _of_row(row)
                continue
            for passage in cut(self._name(file), _text(file), self.words):
                yield str(file), passage

    def _name(self, file: Path) -> str:
        return file.name if self.path.is_file() else file.relative_to(self.path).as_posix()


def cut(name: str, text: str, words: int) -> Iterator[Passage]:
    """A file's passages: ``name#1`` and so on; just ``name`` where there is one.

    Paragraphs under one heading are put together up to ``words`` words; a longer one is cut. The
    title is the last heading, else the file's name.
    """
    title, found, held = Path(name).stem, list[tuple[str, str]](), list[str]()

    def close() -> None:
        if held:
            found.append((title, "\n\n".join(held)))
            held.clear()

    for block in BLOCK.split(text.replace("\r\n", "\n")):
        first, _, rest = block.strip().partition("\n")
        if heading := HEADING.fullmatch(first):
            close()
            title, block = heading[1], rest
        for piece in _pieces(block.strip(), words):
            if held and sum(len(h.split()) for h in held) + len(piece.split()) > words:
                close()
            held.append(piece)
    close()
    for number, (above, body) in enumerate(found, 1):
        yield Passage(name if len(found) == 1 else f"{name}#{number}", above, body)


def _pieces(block: str, words: int) -> Iterator[str]:
    """A paragraph as it is, or cut where it is too long."""
    parts = block.split()
    if len(parts) <= words:
        yield from [block] if block else []
        return
    for first in range(0, len(parts), words):
        yield " ".join(parts[first : first + words])


def _of_row(row: Row) -> Passage:
    """A row with ``_id`` (or ``id``), ``text`` and, where it has one, a ``title``."""
    name = row.text("_id" if "_id" in row.fields else "id")
    title = row.fields.get("title") or ""
    if not isinstance(title, str):
        raise UserError(f'{row.where}: the field "title" must be text')
    # some passages of BEIR's own sets have a title alone
    text = "" if title and row.fields.get("text") == "" else row.text("text")
    return Passage(name.strip(), title.strip(), text.strip())


def _text(file: Path) -> str:
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


def _fault(name: str) -> str:
    """What keeps an id from being cited, "" where nothing does."""
    if any(sign in name for sign in "[]\n"):
        return "has brackets or a line break, so it cannot be cited"
    if len(name) > LONGEST_ID:
        return f"is longer than {LONGEST_ID} characters"
    return "" if name.isprintable() else "has a character that cannot be printed"
