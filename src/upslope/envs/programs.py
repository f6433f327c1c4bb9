"""Runs a program to its end in bounded time, with its output bounded, and kills all it started.

No sandbox: the program is the user's own. What a model wrote is for ``sandbox``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from upslope.envs.warm import warmed
from upslope.types import UserError

PIECE = 2**16
LAST = 2000  # bytes of what went wrong
GRACE = 1.0  # seconds in which what an ended program wrote must have arrived
LOOPBACK = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True)
class Ended:
    """``reason``: why it was ended, "" where it ended itself; ``words``: its last line of error."""

    output: str
    code: int
    words: str
    reason: str = ""


class Alive(Protocol):
    """A process, however it was started; it leads a group of its own."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Its exit code; negative for a signal."""


@dataclass(frozen=True)
class Program:
    """``command`` in ``folder``; ``warm``: what is imported for it; ``most`` bytes of output."""

    command: Sequence[str]
    warm: Sequence[str]
    folder: Path
    most: int

    async def run(
        self, given: Mapping[str, str], words: bytes, seconds: float, end: asyncio.Event
    ) -> Ended:
        """With ``given`` in its environment and ``words`` to read, until it ends or ``end`` is set.

        UserError where there is no such program.
        """
        with ExitStack() as stack:
            told = os.memfd_create("problem") if sys.platform == "linux" else _kept(self.folder)
            os.write(told, words)
            os.lseek(told, 0, os.SEEK_SET)
            (said, write), (errors, err) = os.pipe(), os.pipe()
            with ExitStack() as theirs:
                for file in (told, write, err):
                    theirs.callback(os.close, file)
                for file in (said, errors):
                    stack.callback(os.close, file)
                alive = await self._start(_environment(given), (told, write, err))
            stack.callback(_kill, alive.pid)
            return await self._watched(alive, os.dup(said), os.dup(errors), seconds, end)

    async def _start(self, environment: Mapping[str, str], files: tuple[int, int, int]) -> Alive:
        name, *words = self.command
        name = sys.executable if name == "python" else name
        if self.warm:
            warm = await warmed(name, tuple(self.warm))
            return await warm.start(words, environment, self.folder, files)
        try:
            return await asyncio.create_subprocess_exec(
                name,
                *words,
                stdin=files[0],
                stdout=files[1],
                stderr=files[2],
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"the program {name!r} cannot be run: {error.strerror}") from error

    async def _watched(
        self, alive: Alive, said: int, errors: int, seconds: float, end: asyncio.Event
    ) -> Ended:
        """Whatever comes first ends it: itself, the time, its output, or ``end``."""
        output, words = Pipe(said, self.most), Pipe(errors, LAST, last=True)
        process, ended = asyncio.ensure_future(alive.wait()), asyncio.ensure_future(end.wait())
        reading = asyncio.ensure_future(output.read()), asyncio.ensure_future(words.read())
        full = asyncio.ensure_future(output.full.wait())
        try:
            first = (process, ended, full)
            done, _ = await asyncio.wait(
                first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            reason = ""
            if process not in done:
                reason = f"the agent took more than {seconds:g} s"
            if full in done:
                reason = f"the agent wrote more than {self.most} bytes"
            _kill(alive.pid)
            code = await process
            await asyncio.wait(reading, timeout=GRACE)
        finally:
            for task in (process, ended, full, *reading):
                task.cancel()
            await asyncio.gather(process, ended, full, *reading, return_exceptions=True)
        lines = words.text().strip().splitlines()
        return Ended(output.text(), code, lines[-1] if lines else "", reason)


class Pipe:
    """What is written to a pipe, up to a bound; of more than that its beginning, or its end."""

    def __init__(self, file: int, most: int, *, last: bool = False) -> None:
        self._file, self._most, self._last = file, most, last
        self._found = b""
        self.full = asyncio.Event()

    def text(self) -> str:
        """So far."""
        return self._found.decode("utf-8", "replace")

    async def read(self) -> None:
        """To its end; a pipe that is full of what nobody wants is emptied all the same."""
        reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._file, "rb", 0)
        )
        try:
            while piece := await reader.read(PIECE):
                if len(self._found) + len(piece) > self._most:
                    self.full.set()
                found = self._found + piece
                self._found = found[-self._most :] if self._last else found[: self._most]
        finally:
            transport.close()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """This process's own, and what is given; a proxy is not asked for what is on this machine."""
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY", ""), LOOPBACK)))
    return {**os.environ, "NO_PROXY": direct, "no_proxy": direct, **given}


def _kill(group: int) -> None:
    """All of a group that are left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _kept(folder: Path) -> int:
    """A file for a system without files in memory."""
    return os.open(folder / ".problem.json", os.O_RDWR | os.O_CREAT)
