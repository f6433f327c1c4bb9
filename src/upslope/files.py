"""Files that survive a kill and a full disk: rows, whole files and folders, a lock.

What the files mean is in ``runs.py``. A failed write becomes one sentence; nothing half-written is
ever under a final name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from upslope.types import UserError

NO_ROOM = 1 << 20


@contextmanager
def explained(path: Path, kept: str = "") -> Iterator[None]:
    """Turn a failed write into a UserError that says why, and what is ``kept`` all the same."""
    try:
        yield
    except OSError as error:
        sentence = _sentence(error.errno or errno.EIO, path)
        raise UserError(f"{sentence}; {kept}" if kept else sentence) from error


def finite(value: Any) -> tuple[Any, int]:
    """The value in JSON's own types, with NaN and infinities as None, and how many there were."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None, 1
    if isinstance(value, Mapping):
        pairs = {str(k): finite(v) for k, v in value.items()}
        return {k: v for k, (v, _) in pairs.items()}, sum(n for _, n in pairs.values())
    if isinstance(value, list | tuple):
        items = [finite(v) for v in value]
        return [v for v, _ in items], sum(n for _, n in items)
    return value, 0


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows as JSON lines: all of them, or on a failure none of them."""
    data = b"".join(_line(row) for row in rows)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            _write(descriptor, data)
        except BaseException:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(row, allow_nan=False)
    except (ValueError, TypeError):  # a number that JSON lacks, or a type of its own: seldom
        text = json.dumps(finite(row)[0], default=str)
    return text.encode() + b"\n"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON-lines file but a half-written last one; none where there is no file."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    rows = []
    for place, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {place} is not JSON: the file was damaged") from error
    return rows


def drop_half_row(path: Path) -> None:
    """Cut a half-written last line off, so that the next row does not run into it."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)


def keep_rows(path: Path, rows: int) -> None:
    """Cut a JSON-lines file after its first ``rows`` rows."""
    if path.exists():
        lines = path.read_bytes().split(b"\n")
        replace_file(path, b"".join(line + b"\n" for line in lines[:-1][:rows]))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that under its name is always either the old or the new whole."""
    hidden = _hidden(path, "new")
    try:
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(hidden, path)
        _sync(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a folder and put it under its name when it is whole and on disk.

    A folder already there stays until then; for an instant between two renames there is none.
    """
    hidden, old = _hidden(path, "new"), _hidden(path, "old")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir(parents=True)
        with _as_os_error(hidden):
            write(hidden)
        for folder, _, names in os.walk(hidden):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        if path.exists():
            os.rename(path, old)
        os.rename(hidden, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder so that, killed half-way, nothing incomplete is left under its name."""
    hidden = _hidden(path, "gone")
    shutil.rmtree(hidden, ignore_errors=True)
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def mend(folder: Path) -> None:
    """Put right what a killed ``replace_file``, ``replace_folder`` or ``remove_folder`` left."""
    for old in folder.glob(".*.old"):
        path = folder / old.name[1 : -len(".old")]
        if not path.exists():
            os.rename(old, path)
    for suffix in ("new", "old", "gone"):
        for path in folder.glob(f".*.{suffix}"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


class Lock:
    """One writer at a time; let go by ``release`` or by the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock; raises UserError where another process, or another Run, has it."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._descriptor, 32).decode() or "another one"
            os.close(self._descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise UserError(
                f"process {owner} is writing to {path.parent}: wait for it or name another run"
            ) from error
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def _hidden(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_os_error(folder: Path) -> Iterator[None]:
    """Raise the system's reason for a failed write where a library hides it in another error."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors
        # torch.save says only "unexpected pos" when it runs out of room.
        full = errno.ENOSPC if shutil.disk_usage(folder).free < NO_ROOM else 0
        code = int(told[1]) if told else full
        if not code:
            raise
        raise OSError(code, os.strerror(code)) from error


def _sentence(code: int, path: Path) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {path} could not be written"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write {path}"
    return f"{path} could not be written: {os.strerror(code)}"
