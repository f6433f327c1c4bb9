"""The process that samples for ``apart``: a ``LocalEngine``, and the messages that ask it.

Never imported in a run's own process. It ends when its connection does, however that came.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import time
from array import array
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from upslope import machine
from upslope.engines.local import LocalEngine
from upslope.engines.shared import SharedWeights
from upslope.engines.wire import Failure, Message, Wire
from upslope.types import Sampling, Usage

USAGE = attrgetter(*Usage.__dataclass_fields__)


class Serving:
    """Answers messages: "open" comes first, and everything else by its number in any order."""

    engine: LocalEngine
    weights: SharedWeights

    def __init__(self, end: socket.socket) -> None:
        self.wire = Wire(end, self.heard, self.lost)
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        self.over: asyncio.Future[None]

    async def serve(self) -> None:
        """Until the other end is gone."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_stopped)
        self.over = loop.create_future()
        self.wire.attach()
        await self.over

    def heard(self, message: Message) -> None:
        """Begin to do what is asked."""
        kind, number, content = message
        if kind == "cancel":
            if number in self.tasks:
                self.tasks[number].cancel()
            return
        if kind == "threads":
            torch.set_num_threads(content)
            return
        task = asyncio.create_task(self.answered(kind, content))
        self.tasks[number] = task
        task.add_done_callback(partial(self.done, number))

    async def answered(self, kind: str, content: Any) -> Any:
        """What a message asks for; "open" has begun before any other does."""
        if kind == "open":
            return self.open(*content)
        if kind == "sample":
            return await self.sample(*content)
        if kind == "load":
            return await self.engine.load_weights(self.weights, *content)
        return await self.engine.checksum()

    def open(self, packed: bytes, file: int, threads: int) -> None:
        """The engine, on the policy with the weights that are shared."""
        torch.set_num_threads(threads)
        policy, layout, rows = torch.load(io.BytesIO(packed), weights_only=False)
        self.weights = SharedWeights(layout, file)
        shared = dict(self.weights.tensors())
        for name, parameter in policy.model.named_parameters():
            parameter.data = shared[name]
        self.engine = LocalEngine(policy, rows)

    async def sample(
        self, tokens: bytes, asked: Sequence[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Of each completion its columns as bytes, why it stopped, and what it cost."""
        sampling = [Sampling(*settings) for settings in asked]
        said = await self.engine.sample_group(array("q", tokens), sampling)
        return [
            (c.tokens.tobytes(), c.logprobs.tobytes(), c.versions.tobytes(), c.stop, USAGE(c.usage))
            for c in said
        ]

    def done(self, number: int, task: asyncio.Task[Any]) -> None:
        """Send what became of a message."""
        del self.tasks[number]
        if not self.wire.due:
            self.wire.send(("spent", 0, (time.process_time(), machine.peak_memory())))
        if task.cancelled():
            self.wire.send(("cancelled", number, None))
        elif (error := task.exception()) is not None:
            self.wire.send(("failed", number, Failure.of(error)))
        else:
            self.wire.send(("done", number, task.result()))

    def lost(self) -> None:
        """The run is gone, or wants no more."""
        if not self.over.done():
            self.over.set_result(None)


def main(end: int) -> None:
    """The process's whole life; ``end``: the descriptor of its connection."""
    asyncio.run(Serving(socket.socket(fileno=end)).serve())
    os._exit(0)  # at once: nothing is left to be written, and libraries take seconds to go


def _stopped(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An error that no message is to blame for ends the process, or the run would wait for ever."""
    loop.default_exception_handler(context)
    loop.stop()
