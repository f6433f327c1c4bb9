"""Rows of a data set, each with its place: from a JSONL or Parquet file, or from a hub data set.

What a row must hold is its env's to say. What cannot be read is one sentence with file and line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from upslope.types import Split, UserError

KINDS = ["*.jsonl", "*.jsonl.gz", "*.parquet"]
NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """An object of a data set, and where it stands: "file, line 3"."""

    fields: Mapping[str, Any]
    where: str

    def text(self, name: str) -> str:
        """A field that must be text, or a whole number; UserError where it is something else."""
        value = self.fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            said = "is missing" if value is None else "must be text that is not empty"
            raise UserError(f'{self.where}: the field "{name}" {said}')
        return value


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file; UserError for a file without
    any."""
    file = Path(path).expanduser()
    readers = {".jsonl": _json_rows, ".parquet": _parquet_rows}
    kind = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    if kind not in readers or (kind == ".parquet" and file.suffix == ".gz"):
        raise UserError(
            f"{file} is neither a .jsonl nor a .parquet file, nor a .jsonl.gz: convert it to one"
        )
    try:
        rows = list(readers[kind](file))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    if not rows:
        raise UserError(f"{file} holds no rows: give a file that does, or leave it out")
    return rows


def hub_files(repository: str, subset: str = "") -> dict[Split, list[Path]]:
    """The files of a hub data set, fetched once, by the split that their names begin with.

    ``subset``: the folder to take them from, where there are several. Raises UserError.
    """
    from upslope.snapshots import Wanted, snapshot

    def check(folder: Path) -> None:
        if not _data_files(folder):
            raise UserError(f"it has no {' or '.join(KINDS)} file")

    try:
        folder = snapshot(Wanted(repository, "dataset", check, only=KINDS), _mute)
    except UserError as error:
        raise UserError(f"{repository}: {error}, or give the path of a file") from None
    files = _data_files(folder)
    subsets = sorted({_subset(folder, file) for file in files})
    if not subset and len(subsets) == 1:
        subset = subsets[0]
    if subset not in subsets:
        names = ", ".join(filter(None, subsets))
        raise UserError(f"{repository} has no subset {subset!r}: set subset to one of {names}")
    chosen = [file for file in files if _subset(folder, file) == subset]
    splits = {split: [f for f in chosen if _named(f, split)] for split in get_args(Split)}
    if not any(splits.values()):
        raise UserError(
            f"{repository} has no file named after a split, such as test.jsonl: "
            "give the path of a file instead"
        )
    return splits


def _json_rows(file: Path) -> Iterator[Row]:
    lines = _unpacked(file).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            odd = f"byte 0x{line[error.start]:02x}"
            raise UserError(f"{where}: {odd} is not UTF-8, so save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            cut = "the file ends in the middle of a row" if number == len(lines) else error.msg
            cure = "get the file again" if number == len(lines) else "mend or remove the line"
            raise UserError(f"{where}: not valid JSON ({cut}), so {cure}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{where}: expected an object in braces, not {str(fields)[:20]!r}")
        yield Row(fields, where)


def _unpacked(file: Path) -> bytes:
    """What a file holds, whether or not it is compressed."""
    data = file.read_bytes()
    if file.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file} is not a whole gzip file ({error}): get it again") from error


def _parquet_rows(file: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        table = parquet.read_table(file)
    except ArrowInvalid as error:
        raise UserError(f"{file} is not a whole Parquet file ({error}): get it again") from error
    for number, fields in enumerate(table.to_pylist(), 1):
        yield Row(fields, f"{file}, row {number}")


def _data_files(folder: Path) -> Sequence[Path]:
    return sorted(file for kind in KINDS for file in folder.rglob(kind))


def _subset(folder: Path, file: Path) -> str:
    """The file's folder in its repository; a top folder "data" is how the hub says none."""
    parts = file.relative_to(folder).parts[:-1]
    return "/".join(parts[1:] if parts[:1] == ("data",) else parts)


def _named(file: Path, split: Split) -> bool:
    """Whether ``train-00000-of-00001.parquet`` and the like are of this split."""
    word = file.stem.replace("_", "-").replace(".", "-").partition("-")[0]
    return word.lower() in NAMES[split]


def _mute(line: str) -> None:
    """Envs have no voice; a fetch is short."""
