"""Samples in a process of its own, so that neither sampling nor an update waits for the other.

Two threads of one process take turns at its interpreter. This side asks, hands weights over in
shared memory, and says how the process ended; what it does there is in ``serving``.
"""

from __future__ import annotations

import asyncio
import copy
import io
import os
import signal
import socket
import subprocess
import sys
import weakref
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import nn

from upslope.engines.shared import SharedWeights, layout_of
from upslope.engines.wire import Failure, Message, Wire
from upslope.models.policy import Policy
from upslope.types import Completion, InFlight, Sampling, StopReason, Usage, WeightSource

FAREWELL = 2.0  # seconds that the process has to end by itself
OPENING = 0  # the number of the first message
SETTINGS = attrgetter(*Sampling.__dataclass_fields__)


class ApartEngine:
    """``types.Engine`` over a ``LocalEngine`` in another process, which begins at the first use.

    Completions are what that engine in this process would give, at the same number of threads.
    """

    def __init__(self, policy: Policy, rows: int, threads: int) -> None:
        """Copy the policy's weights, as version 0; the process computes with ``threads``."""
        layout = layout_of(policy.tensors())
        self._weights = SharedWeights(layout)
        self._weights.put(policy.tensors())
        self._opening = _packed(policy, layout, rows)
        self._threads = threads
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._sampling: set[int] = set()
        self._next = OPENING + 1
        self._loading: asyncio.Future[Any] | None = None
        self._wire: Wire | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[Any, Any] | None = None
        self._error: Failure | None = None
        self._spent = (0.0, 0)

    @property
    def busy(self) -> bool:
        """Whether requests are being sampled now."""
        return bool(self._sampling)

    @property
    def cpu_seconds(self) -> float:
        """Of the process while it lives; then the system counts it among the ended ones."""
        return self._spent[0]

    @property
    def peak_memory(self) -> int:
        """The most bytes the process is known to have held at once, besides what it shares."""
        return max(0, self._spent[1] - self._weights.size)

    async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
        """Continue ``tokens``; UserError where these or the settings cannot be sampled from."""
        return (await self.sample_group(tokens, (sampling,)))[0]

    async def sample_group(
        self, tokens: Sequence[int], asked: Sequence[Sampling]
    ) -> list[Completion]:
        """What as many calls of ``sample`` give, all at once."""
        content = array("q", tokens).tobytes(), [SETTINGS(one) for one in asked]
        number, answer = self._ask("sample", content)
        self._sampling.add(number)
        return [_completion(*columns) for columns in await self._answer(number, answer)]

    async def load_weights(
        self, source: WeightSource, version: int, in_flight: InFlight = "finish"
    ) -> None:
        """Hand weights over; ``in_flight`` means what it does to ``LocalEngine``."""
        while self._loading is not None and not self._loading.done():
            await asyncio.wait([self._loading])  # it is still being read
        self._weights.put(source.tensors())
        number, self._loading = self._ask("load", (version, in_flight))
        await self._answer(number, asyncio.shield(self._loading))

    async def checksum(self) -> str:
        """Of the weights in use there."""
        return str(await self._answer(*self._ask("checksum", None)))

    def use(self, threads: int) -> None:
        """Compute with so many threads from now on."""
        if threads != self._threads and self._wire is not None:
            self._wire.send(("threads", 0, threads))
        self._threads = threads

    def close(self) -> None:
        """End the process; whatever is being sampled is given up."""
        if self._wire is not None and self._error is None:
            self._ended(Failure("RuntimeError", "the engine was closed", ""))

    def _ask(self, kind: str, content: Any) -> tuple[int, asyncio.Future[Any]]:
        """Send a message; its number, and what its answer will be in."""
        wire, number = self._attached(), self._next
        self._next += 1
        self._waiting[number] = asyncio.get_running_loop().create_future()
        wire.send((kind, number, content))
        return number, self._waiting[number]

    async def _answer(self, number: int, answer: asyncio.Future[Any]) -> Any:
        """Wait for an answer; the process is told when nobody does any more."""
        try:
            return await answer
        except asyncio.CancelledError:
            if self._wire is not None:
                self._wire.send(("cancel", number, None))
            raise

    def _attached(self) -> Wire:
        """The wire, in this event loop; what an earlier loop left behind is forgotten."""
        if self._error is not None:
            raise self._error.error()
        if self._wire is None:
            self._wire = self._begun()
        if self._wire.attach():
            for number in self._waiting:
                self._wire.send(("cancel", number, None))
            self._waiting, self._sampling, self._loading = {}, set(), None
        return self._wire

    def _begun(self) -> Wire:
        """The process, which finds what this one finds however that was told, and a wire to it."""
        here, there = socket.socketpair()
        code = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
            f"sys.path[:] = {sys.path!r}; "
            "from upslope.machine import prepare_memory; prepare_memory(); "
            f"from upslope.engines.serving import main; main({there.fileno()})"
        )
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(there.fileno(), self._weights.file),
                start_new_session=True,  # Ctrl-C is for the run, which ends this process itself
            )
        self._end = weakref.finalize(self, _ended, self._process, here)
        wire = Wire(here, self._heard, self._lost)
        wire.send(("open", OPENING, (self._opening, self._weights.file, self._threads)))
        self._opening = b""
        return wire

    def _heard(self, message: Message) -> None:
        kind, number, content = message
        if kind == "spent":
            self._spent = content
            return
        if number == OPENING and kind == "failed":
            self._ended(content)
        self._sampling.discard(number)
        answer = self._waiting.pop(number, None)
        if answer is None or answer.done():
            return
        if kind == "cancelled":
            answer.cancel()
        elif kind == "failed":
            answer.set_exception(content.error())
            answer.exception()  # seen: whoever asked may not wait any more
        else:
            answer.set_result(content)

    def _lost(self) -> None:
        """The process is gone although nobody ended it."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(FAREWELL)
        code = self._process.poll()
        how = "closed its connection"
        if code is not None:
            how = f"ended with exit status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        words = (
            f"the process that samples {how}: if the machine is short of memory, lower rollout.rows"
            " or set rollout.max_staleness=0, which samples in the run's own process"
        )
        self._ended(Failure("UserError", words, ""))

    def _ended(self, failure: Failure) -> None:
        """End the process, if it has not ended, and raise this in everyone who waits for it."""
        assert self._wire is not None
        assert self._end is not None
        self._error, waiting = failure, self._waiting
        self._waiting, self._sampling = {}, set()
        self._wire.close()
        self._end()
        self._spent = (0.0, self._spent[1])
        for answer in waiting.values():
            if not answer.done() and not answer.get_loop().is_closed():
                answer.set_exception(failure.error())
                answer.exception()


def _completion(
    ids: bytes, logprobs: bytes, versions: bytes, stop: StopReason, usage: tuple[Any, ...]
) -> Completion:
    """From what ``serving`` makes of one."""
    return Completion(
        np.frombuffer(ids, np.int32),
        np.frombuffer(logprobs, np.float32),
        np.frombuffer(versions, np.int32),
        stop,
        Usage(*usage),
    )


def _packed(policy: Policy, layout: Any, rows: int) -> bytes:
    """The policy without its weights, whose places are kept by tensors of one number."""
    places = {
        id(p): nn.Parameter(torch.zeros((), dtype=p.dtype).expand(p.shape), requires_grad=False)
        for p in policy.model.parameters()
    }
    empty = replace(policy, model=copy.deepcopy(policy.model, places))
    packed = io.BytesIO()
    torch.save((empty, layout, rows), packed)
    return packed.getvalue()


def _ended(process: subprocess.Popen[bytes], end: socket.socket) -> None:
    """End a process by closing its connection, and if that is not enough by a signal."""
    end.close()
    try:
        process.wait(FAREWELL)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
