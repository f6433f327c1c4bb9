"""The process that grades, in a fork of itself: when that is ended, the next is there in no time.

Runs under ``workers.py``, never in a run's own process. Limits are the kernel's: it ends the fork
whatever the grader is doing, be it one product of huge numbers that no signal handler would stop.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

HEAD = struct.Struct(">Q")
NO_MEMORY = 101
Grader = Callable[..., Any]
Item = Sequence[Any]


@dataclass(frozen=True)
class Limits:
    """What one answer may take: seconds of computing, seconds in all, bytes of memory."""

    computing: float = 2.0
    elapsed: float = 20.0
    memory: int = 2 << 30


def serve(grader: str, warm: Item, limits: Limits) -> None:
    """Grade until standard input ends. ``grader`` is "module:function", ``warm`` its first item.

    A request is a pickled list of items; to each item goes one line of JSON, in order, or the line
    ``{"died": code}``, after which the rest of the request is dropped. The code is the fork's exit
    status, or the signal that ended it with a minus.
    """
    lines, silence = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # what a library prints is no answer
    if sys.platform == "linux":  # macOS has the limit and refuses to set it
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, hard))
    module, _, name = grader.partition(":")
    function: Grader = vars(importlib.import_module(module))[name]
    function(*warm)
    os.dup2(silence, 2)  # until here it says why it could not start
    while True:
        fork = os.fork()
        if not fork:
            _grade(function, limits, lines)
        code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        if code == 0:
            return
        _write(lines, {"died": code})


def _grade(function: Grader, limits: Limits, lines: int) -> None:
    """A fork's whole life; the default action of both alarms is its end."""
    for alarm in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(alarm, signal.SIG_DFL)
    while head := _read(HEAD.size):
        for item in pickle.loads(_read(*HEAD.unpack(head))):
            signal.setitimer(signal.ITIMER_PROF, limits.computing)
            signal.setitimer(signal.ITIMER_REAL, limits.elapsed)
            try:
                said = {"value": function(*item)}
            except MemoryError:
                os._exit(NO_MEMORY)
            except Exception as error:  # noqa: BLE001
                said = {"failed": f"{type(error).__name__}: {error}"[:200]}
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _write(lines, said)
    os._exit(0)


def _read(size: int) -> bytes:
    """Exactly so many bytes of standard input, unbuffered: the next fork goes on where they end."""
    data = b""
    while len(data) < size and (part := os.read(0, size - len(data))):
        data += part
    return data if len(data) == size else b""


def _write(lines: int, said: Any) -> None:
    data = json.dumps(said).encode() + b"\n"
    while data:
        data = data[os.write(lines, data) :]
