"""Run programs that nobody has read: bounded in time, memory, processes, files and output, without
network, in sight of nothing of the host's, and killed with all that they began.

Levels: "isolated" is namespaces with a root and a user of their own, few system calls and limits;
"confined" is Landlock and few system calls, without processes of its own; "limited" is limits
alone, for programs that are trusted. A level that a host does not offer is refused, never replaced.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from upslope import machine
from upslope.sandbox.limits import Level, Limits, Offer, Program, Ran
from upslope.sandbox.worker import GoneError, Worker
from upslope.types import UserError

__all__ = ["Level", "Limits", "Offer", "Program", "Ran", "Sandbox", "offered", "sandbox"]

LEVELS: tuple[Level, ...] = get_args(Level)
WORN = 1000  # runs of a warden before another takes its place
TRIES = 2  # of a run whose sandbox failed


class Sandbox:
    """Wardens at one level, as many as cores unless told, kept warm; safe to use from threads."""

    def __init__(self, level: Level, workers: int = 0) -> None:
        self.level, self.most = level, max(2, workers or machine.cores())
        self._idle: list[Worker] = []
        self._out, self._changed = 0, threading.Condition()

    async def run(self, program: Program, limits: Limits) -> Ran:
        """A program's end, however it ended; never an exception of the program's."""
        return await asyncio.to_thread(self.runs, program, limits)

    async def joined(self, first: Program, second: Program, limits: Limits) -> tuple[Ran, Ran]:
        """Two programs at once, apart but for a pipe each way: descriptors 4 (read) and 5 (write)
        of each. Neither sees the other's source, memory or processes."""
        return await asyncio.to_thread(self.joins, first, second, limits)

    def runs(self, program: Program, limits: Limits) -> Ran:
        """As ``run``, for callers without an event loop."""
        for _ in range(TRIES):
            with self._borrowed(1) as [worker]:
                ran = worker.run(program, limits)
            if ran.ending != "failed":
                break
        return ran

    def joins(self, first: Program, second: Program, limits: Limits) -> tuple[Ran, Ran]:
        """As ``joined``, for callers without an event loop."""
        with self._borrowed(2) as [one, other]:
            there, answer, back = os.pipe(), os.pipe(), list[Ran]()
            ends = ((answer[0], there[1]), (there[0], answer[1]))
            programs = [
                Program(p.source, p.command, p.stdin, wires)
                for p, wires in zip((first, second), ends, strict=True)
            ]
            thread = threading.Thread(
                target=lambda: back.append(other.run(programs[1], limits, close=ends[1]))
            )
            thread.start()
            ran = one.run(programs[0], limits, close=ends[0])
            thread.join()
        return ran, back[0]

    def close(self) -> None:
        """End the idle wardens, and all that is in them."""
        with self._changed:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    @contextmanager
    def _borrowed(self, number: int) -> Iterator[list[Worker]]:
        with self._changed:
            self._changed.wait_for(lambda: self._out + number <= self.most)
            self._out += number
            taken = [self._idle.pop() for _ in range(min(number, len(self._idle)))]
        try:
            taken += [Worker(self.level) for _ in range(number - len(taken))]
            yield taken
        except GoneError as error:
            raise UserError(f'the sandbox "{self.level}" does not start here: {error}') from error
        finally:
            fit = [w for w in taken if w.ran < WORN and w.alive]
            with self._changed:
                self._out -= number
                self._idle += fit
                self._changed.notify_all()
            for worker in taken:
                if worker not in fit:
                    worker.close()


@functools.cache
def offered() -> Offer:
    """The best level of this host, found by trying: a program is run at each."""
    missing = dict[str, str]()
    for level in LEVELS[:-1] if sys.platform == "linux" else ():
        try:
            worker = Worker(level)
        except (GoneError, OSError) as error:
            missing[level] = str(error)
            continue
        ran = worker.run(Program("print(6 * 7)"), Limits())
        worker.close()
        if ran.text == "42\n":
            return Offer(level, missing)
        missing[level] = ran.reason or ran.text.strip() or ran.ending
    return Offer(LEVELS[-1], missing)


@functools.cache
def sandbox(level: Level) -> Sandbox:
    """The process's own at a level, ended with it; UserError where the host does not offer it."""
    best = offered()
    if LEVELS.index(best.level) > LEVELS.index(level):
        why = best.missing.get(level, "it needs Linux")
        raise UserError(
            f'this machine does not offer the sandbox "{level}" ({why}): run elsewhere, or accept '
            f'what it does offer with sandbox = "{best.level}"'
        )
    made = Sandbox(level)
    atexit.register(made.close)
    return made
