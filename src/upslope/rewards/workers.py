"""Grading outside the run's process, in a few workers that can be killed.

The event loop never waits for them: a thread does, for each worker. A grader that takes too long,
breaks, or takes its process with it says nothing of the answer, so the outcome is a reason.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from upslope.machine import cores
from upslope.rewards.worker import HEAD, NO_MEMORY, Item, Limits

LIMITS = Limits()
SIGN_OF_LIFE = 5.0
FAREWELL = 1.0
LATE = 60.0  # seconds beyond an item's limit after which a worker is lost, not slow


@dataclass(frozen=True)
class Outcome:
    """What a grader returned or, where it did not, the ``reason``."""

    value: Any = None
    reason: str = ""


class Workers:
    """Up to ``size`` processes (one a core by default) that run ``grader``, "module:function".

    Nothing starts before the first grading; all end with this process. ``warm`` is an item that
    each grades first, to load what grading needs.
    """

    def __init__(
        self, grader: str, warm: Item = (), limits: Limits = LIMITS, size: int = 0
    ) -> None:
        self.grader, self.warm, self.limits = grader, warm, limits
        self.size = size or cores()
        self.jobs: SimpleQueue[tuple[Sequence[Item], Future[list[Outcome]]] | None] = SimpleQueue()
        self.workers: list[Worker] = []
        self.threads: list[threading.Thread] = []

    async def grade(self, items: Sequence[Item]) -> list[Outcome]:
        """One outcome for each item (the grader's arguments), in order; a group is one call."""
        future: Future[list[Outcome]] = Future()
        self._grow()
        self.jobs.put((items, future))
        waiting = asyncio.wrap_future(future)
        try:
            # to be queued is not to hang: whoever bounds this call sees that it still moves
            while not waiting.done():
                await asyncio.wait([waiting], timeout=SIGN_OF_LIFE)
            return waiting.result()
        finally:
            waiting.cancel()

    def close(self) -> None:
        """End all processes; what is being graded by them is given up."""
        for worker in self.workers:
            self.jobs.put(None)
            worker.end()
        for thread in self.threads:
            thread.join(timeout=SIGN_OF_LIFE)
        self.workers, self.threads = [], []

    def _grow(self) -> None:
        if len(self.workers) < self.size:
            if not self.workers:
                atexit.register(self.close)
            worker = Worker(self.grader, self.warm, self.limits)
            self.workers.append(worker)
            thread = threading.Thread(target=self._work, args=(worker,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _work(self, worker: Worker) -> None:
        while job := self.jobs.get():
            items, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(worker.grade(items))
            except OSError as error:
                reason = f"no grading process could be started: {error}"
                future.set_result([Outcome(reason=reason)] * len(items))
        worker.stop()


class Worker:
    """One process of ``worker.serve``, started when needed and again when it was lost."""

    def __init__(self, grader: str, warm: Item, limits: Limits) -> None:
        self.limits, self.closed, self.busy = limits, False, False
        self.process: subprocess.Popen[bytes] | None = None
        # -c and not -m: the process finds what this one finds, however that was told
        self.command = [
            sys.executable,
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from upslope.rewards.worker import Limits, serve; "
            f"serve({grader!r}, {warm!r}, {limits!r})",
        ]

    def grade(self, items: Sequence[Item]) -> list[Outcome]:
        """An outcome for each item. Blocks, in bounded time."""
        outcomes: list[Outcome] = []
        self.busy = True
        while len(outcomes) < len(items) and not self.closed:
            rest = items[len(outcomes) :]
            self._send(rest)
            for _ in rest:
                said = self._receive()
                outcomes.append(self._outcome(said))
                if "died" in said:
                    break
        self.busy = False
        return outcomes

    def end(self) -> None:
        """End what it does, for good, from another thread; its own one clears up."""
        self.closed = True
        if self.busy and (process := self.process) is not None:
            _kill(process)

    def stop(self) -> str:
        """End the process and its fork, if there are any; the last words."""
        process, self.process = self.process, None
        if process is None or process.stdin is None:
            return ""
        process.stdin.close()  # an idle one ends by that
        process.stdin = None
        try:
            process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            _kill(process)
        errors = process.communicate()[1].decode(errors="replace").split("\n")
        return next((line for line in reversed(errors) if line.strip()), "it was killed")

    def _outcome(self, said: dict[str, Any]) -> Outcome:
        if "value" in said:
            return Outcome(said["value"])
        if "failed" in said:
            return Outcome(reason=f"the grader raised {said['failed']}")
        limits, ended = self.limits, said["died"]
        if ended == -signal.SIGPROF:
            return Outcome(reason=f"grading took more than {limits.computing:g} CPU-seconds")
        if ended == -signal.SIGALRM:
            return Outcome(reason=f"grading took more than {limits.elapsed:g} seconds")
        if ended == NO_MEMORY:
            return Outcome(reason=f"grading took more than {limits.memory / 2**30:g} GiB of memory")
        if isinstance(ended, int):
            ended = signal.Signals(-ended).name if ended < 0 else f"exit status {ended}"
        return Outcome(reason=f"grading ended its process: {ended}")

    def _send(self, items: Sequence[Item]) -> None:
        """Write the request to the process; one is started where there is none."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.process = subprocess.Popen(
                self.command,
                # a core each: what threads set aside would count against the memory limit
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                bufsize=0,  # select knows nothing of what a buffer holds
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the run, which ends its workers itself
            )
        assert self.process.stdin is not None
        data = pickle.dumps(items)
        rest = memoryview(HEAD.pack(len(data)) + data)
        with suppress(BrokenPipeError):  # whatever ended it, reading from it will tell
            while rest:
                rest = rest[os.write(self.process.stdin.fileno(), rest) :]

    def _receive(self) -> dict[str, Any]:
        """The next line of the process, or why none comes; then the process is gone."""
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], self.limits.elapsed + LATE)
        line = self.process.stdout.readline() if ready else b""
        if line:
            said: dict[str, Any] = json.loads(line)
            return said
        why = self.stop()
        return {"died": why if ready else -signal.SIGALRM}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its fork, which are a process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
