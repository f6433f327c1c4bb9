"""Python programs without the wait for their imports: forks of a process that has done these.

One such process for each set of modules, until this process ends. What it does is ``zygote.py``.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upslope.types import UserError

SCRIPT = Path(__file__).with_name("zygote.py")
MOST = 2**16
PATIENCE = 120.0  # seconds for all imports
PAUSE = 0.005
Key = tuple[str, tuple[str, ...]]
_kept: dict[Key, Warm] = {}


async def warmed(python: str, modules: tuple[str, ...]) -> Warm:
    """The process that has imported these; UserError where they cannot be."""
    found = _kept.get((python, modules))
    if found is None or found.gone:
        found = _kept[python, modules] = Warm(python, modules)
    await found.ready()
    return found


@dataclass(frozen=True)
class Forked:
    """A child; its exit code comes by the process that forked it."""

    pid: int
    code: asyncio.Future[int]

    async def wait(self) -> int:
        """Until it has ended."""
        return await asyncio.shield(self.code)


class Warm:
    """This side of a zygote: asks for children, and hears of their ends."""

    def __init__(self, python: str, modules: Sequence[str]) -> None:
        self._modules, self._numbers = modules, itertools.count()
        self._wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._wire.setblocking(False)
        words = [python, str(SCRIPT), str(theirs.fileno()), *modules]
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        except OSError as error:
            raise UserError(f"the program {python!r} cannot be run: {error.strerror}") from error
        finally:
            theirs.close()
        self.gone = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = False
        self._waiting: asyncio.Future[None] | None = None
        self._begun: dict[int, asyncio.Future[int]] = {}
        self._ends: dict[int, asyncio.Future[int]] = {}
        atexit.register(self.close)

    async def ready(self) -> None:
        """When its imports are done; UserError where one failed."""
        self._attach()
        if self._ready:
            return
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(self._waiting)
        except (TimeoutError, ConnectionError) as error:
            self.close()
            raise UserError(
                f"importing {', '.join(self._modules)} failed, which warm names: its own words are "
                "above; leave it out of warm, or install it"
            ) from error

    async def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        files: Sequence[int],
    ) -> Forked:
        """A child that runs ``words``, a script and its arguments."""
        self._attach()
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        begun = self._begun[number] = loop.create_future()
        asked = {"id": number, "words": list(words), "folder": str(folder)}
        data = json.dumps({**asked, "environment": dict(environment)}).encode()
        while True:
            try:
                socket.send_fds(self._wire, [data], files)
                break
            except BlockingIOError:
                await asyncio.sleep(PAUSE)  # it is busy forking others
        pid = await begun
        return Forked(pid, self._ends[pid])

    def close(self) -> None:
        """End it, and with it all its children."""
        if self.gone:
            return
        self.gone = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._wire)
        self._wire.close()
        self._process.kill()
        self._process.wait()
        atexit.unregister(self.close)

    def _attach(self) -> None:
        """Have the running event loop hear it; what an earlier loop waited for is forgotten."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        self._loop, self._waiting = loop, None
        self._begun, self._ends = {}, {}
        loop.add_reader(self._wire, self._hear)

    def _hear(self) -> None:
        try:
            data = self._wire.recv(MOST)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._lost()
            return
        told: dict[str, Any] = json.loads(data)
        if "id" in told:
            assert self._loop is not None
            self._ends[told["pid"]] = self._loop.create_future()
            begun = self._begun.pop(told["id"], None)
            if begun is not None and not begun.done():
                begun.set_result(told["pid"])
        elif "pid" in told:
            end = self._ends.pop(told["pid"], None)
            if end is not None and not end.done():
                end.set_result(told["code"])
        else:
            self._ready = True
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(None)

    def _lost(self) -> None:
        """Whoever waits hears of it."""
        waiting = [*self._begun.values(), *self._ends.values(), self._waiting]
        self.close()
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(ConnectionResetError("the process with the imports is gone"))
                future.exception()  # heard, whoever else waits
