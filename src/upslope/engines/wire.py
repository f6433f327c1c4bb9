"""Messages between a run and the process that samples for it, as many as there are in one write.

How they travel, and how a failure does. What they mean is in ``apart`` and ``serving``.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from upslope.types import UserError

HEAD = struct.Struct(">Q")
AT_ONCE = 2**20  # bytes
KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (UserError, ValueError, ArithmeticError, MemoryError)
}
Message = tuple[str, int, Any]  # its kind, which request it belongs to, and its content


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of one process, to be raised in the other."""

    kind: str
    sentence: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Its kind where both sides know that, its own words, and where it was."""
        kind = type(error).__name__
        words = str(error) if kind in KINDS or type(error) is RuntimeError else f"{kind}: {error}"
        return cls(kind, words, "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """The error, as near as can be."""
        error = KINDS.get(self.kind, RuntimeError)(self.sentence)
        error.add_note(f"in the engine's own process:\n{self.trace}")
        return error


class Wire:
    """One end of a socket. What is sent in one turn of the event loop goes in one write.

    ``heard`` is called with each message, ``lost`` once, when the other end is gone. ``due``:
    whether something waits for this turn's end. Never blocks.
    """

    def __init__(
        self, end: socket.socket, heard: Callable[[Message], None], lost: Callable[[], None]
    ) -> None:
        end.setblocking(False)
        self._end, self._heard, self._lost = end, heard, lost
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: list[Message] = []
        self._unsent, self._unread = bytearray(), bytearray()
        self.due = False

    def attach(self) -> bool:
        """Have the running event loop read and write. Whether it did not do so yet."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return False
        self._loop, self.due = loop, False
        loop.add_reader(self._end, self._read)
        if self._outbox or self._unsent:
            self._flush()
        return True

    def send(self, message: Message) -> None:
        """Send it with all others of this turn."""
        self._outbox.append(message)
        if not self.due and self._loop is not None and not self._loop.is_closed():
            self.due = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Let go of the socket."""
        if self._end.fileno() < 0:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
        self._end.close()

    def _flush(self) -> None:
        self.due = False
        if self._end.fileno() < 0:
            return
        if self._outbox:
            data = pickle.dumps(self._outbox, pickle.HIGHEST_PROTOCOL)
            self._outbox = []
            self._unsent += HEAD.pack(len(data)) + data
        self._write()

    def _write(self) -> None:
        assert self._loop is not None
        try:
            while self._unsent:
                del self._unsent[: self._end.send(self._unsent[:AT_ONCE])]
        except BlockingIOError:
            self._loop.add_writer(self._end, self._write)
            return
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()  # reading will tell that the other end is gone
        self._loop.remove_writer(self._end)

    def _read(self) -> None:
        try:
            data = self._end.recv(AT_ONCE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
            self._lost()
            return
        self._unread += data
        while len(self._unread) >= HEAD.size:
            end = HEAD.size + HEAD.unpack_from(self._unread)[0]
            if len(self._unread) < end:
                return
            messages = pickle.loads(self._unread[HEAD.size : end])
            del self._unread[:end]
            for message in messages:
                self._heard(message)
