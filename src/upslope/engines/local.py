"""Samples in this process from a copy of the policy, with continuous batching.

Requests queue, join the rows being decoded as others leave, and share the prefill of equal prompts
admitted together. Who waits for what is here; the rows' lives are in ``running``, the numbers in
``models.decoder``, ``models.cached`` and ``sampler``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from upslope import machine
from upslope.engines.apart import ApartEngine
from upslope.engines.running import Call, Group, Heard, Request, Running
from upslope.engines.slots import Slots
from upslope.engines.stops import Stops
from upslope.models.cached import Cached
from upslope.models.decoder import Decoder
from upslope.models.fused import fits
from upslope.models.policy import Policy, checksum
from upslope.types import Completion, InFlight, Sampling, UserError, WeightSource

FEW = 8  # a full engine waits for this part of its rows: prefills cost less together

Turn = asyncio.Future[None]  # of a load that waits for the requests before it


@dataclass(frozen=True)
class Local:
    """With continuous batching, in the learner's process or beside it. It has no settings."""

    def open(self, policy: Policy, rows: int) -> LocalEngine:
        """An engine with the policy's weights."""
        return LocalEngine(policy, rows)

    def apart(self, policy: Policy, rows: int, threads: int) -> ApartEngine:
        """An engine like that in a process of its own."""
        return ApartEngine(policy, rows, threads)


class LocalEngine:
    """``types.Engine`` over a policy of this process.

    Decodes at most ``rows`` requests at once, and no more than have room in ``budget`` bytes for
    keys and values, by default a quarter of the memory that is there; the others queue. A quarter
    as much, by default, is for what later prompts may begin with (``prefixes``).
    """

    def __init__(
        self,
        policy: Policy,
        rows: int = 256,
        budget: int | None = None,
        prefixes: int | None = None,
    ) -> None:
        """Copy the policy's weights, as version 0."""
        self._policy, self._rows = policy, rows
        self._budget = _available(policy.model.device) // 4 if budget is None else budget
        prefixes = self._budget // 4 if prefixes is None else prefixes
        self._model = Decoder(policy, prefixes) if fits(policy.model) else Cached(policy)
        self._vocabulary = int(policy.model.get_input_embeddings().num_embeddings)
        self._version, self._whole, self._seconds = 0, True, 0.0
        self._queue: deque[Group | Turn] = deque()
        self._joinable: dict[tuple[int, ...], Group] = {}  # groups that a request may still join
        self._pump: asyncio.Task[None] | None = None
        self._reset()

    @property
    def fast(self) -> bool:
        """Whether the fast decoder knows the architecture; if not, its own forward pass runs."""
        return self._model.fast

    @property
    def version(self) -> int:
        """Of the weights in use."""
        return self._version

    @property
    def busy(self) -> bool:
        """Whether requests are being sampled now."""
        return self._pump is not None and not self._pump.done()

    @property
    def flops(self) -> float:
        """Of all passes run so far, padding included."""
        return self._model.flops

    @property
    def seconds(self) -> float:
        """Spent so far in passes and in choosing tokens."""
        return self._seconds

    async def sample(
        self, tokens: Sequence[int], sampling: Sampling, heard: Heard | None = None
    ) -> Completion:
        """Continue ``tokens``; UserError where these or the settings cannot be sampled from."""
        return (await self.sample_group(tokens, (sampling,), heard))[0]

    async def sample_group(
        self, tokens: Sequence[int], asked: Sequence[Sampling], heard: Heard | None = None
    ) -> list[Completion]:
        """What as many calls of ``sample`` give, all at once: small models notice the calls."""
        prompt = tuple(map(int, tokens))
        self._check(prompt)
        if not asked:
            return []
        limits = [self._limit(prompt, sampling) for sampling in asked]
        call = Call(asyncio.get_running_loop().create_future(), len(asked), heard)
        pairs = enumerate(zip(asked, limits, strict=True))
        requests = [Request(prompt, one, limit, call, i) for i, (one, limit) in pairs]
        self._start()
        group = self._joinable.get(prompt)
        if group is None:
            group = self._joinable[prompt] = []
            self._queue.append(group)
        group += requests
        try:
            return await call.answers
        except asyncio.CancelledError:
            for request in requests:
                self._drop(request)
            raise

    async def load_weights(
        self, source: WeightSource, version: int, in_flight: InFlight = "finish"
    ) -> None:
        """Copy weights; ``version`` may not go down (ValueError).

        "finish" waits for every request made before it, and later ones wait for the load. "keep"
        loads between two tokens; "recompute" then also rebuilds the running requests' caches.
        """
        if in_flight == "finish" and (self._queue or self._running.requests):
            await self._load_in_turn(source, version)
            return
        self._load(source, version)
        if in_flight == "recompute":
            self._stale = True

    async def checksum(self) -> str:
        """Of the weights in use."""
        return checksum(self._model.tensors())

    def _check(self, prompt: tuple[int, ...]) -> None:
        """Refuse a prompt that cannot be continued."""
        name, context = self._policy.name, self._policy.context
        if not self._whole:
            raise RuntimeError("the engine's last load of weights failed half way: load them again")
        if not prompt:
            raise UserError("the prompt has no tokens: give the engine at least one to continue")
        if min(prompt) < 0 or max(prompt) >= self._vocabulary:
            raise UserError(
                f"the prompt has token ids outside the vocabulary of model {name!r}: encode it "
                "with that model's own tokenizer"
            )
        if len(prompt) >= context:
            raise UserError(
                f"the prompt has {len(prompt)} tokens, which leaves no room for a reply in the "
                f"{context} tokens of context that model {name!r} has: shorten the prompt"
            )

    def _limit(self, prompt: tuple[int, ...], sampling: Sampling) -> int:
        """The most tokens that a checked prompt's reply may have."""
        if sampling.max_tokens < 1:
            raise UserError(f"max_tokens is {sampling.max_tokens}: ask for at least one token")
        if not 0 <= sampling.temperature < math.inf:
            raise UserError(f"temperature is {sampling.temperature}: give 0 or a positive number")
        limit = min(sampling.max_tokens, self._policy.context - len(prompt))
        room = self._model.room(len(prompt), limit, 1)
        if room > self._budget and room > _available(self._policy.model.device):
            raise UserError(
                f"a prompt of {len(prompt)} tokens and a reply of {limit} take {room / 2**30:.1f} "
                "GiB of keys and values, more than is free: lower max_tokens or shorten the prompt"
            )
        return limit

    async def _load_in_turn(self, source: WeightSource, version: int) -> None:
        self._start()
        turn: Turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._joinable = {}
        try:
            await turn
            self._load(source, version)
        finally:
            if turn in self._queue:
                self._queue.remove(turn)

    def _load(self, source: WeightSource, version: int) -> None:
        if version < self._version:
            raise ValueError(f"weight versions never go down: {version} after {self._version}")
        self._whole = False
        self._model.load(source.tensors())
        self._whole, self._version = True, version

    def _start(self) -> None:
        """Have the pump run in this event loop; what an earlier loop left behind is forgotten."""
        loop = asyncio.get_running_loop()
        if self._pump is not None and self._pump.get_loop() is not loop:
            self._reset()
            self._pump = None
        if self._pump is None or self._pump.done():
            self._pump = loop.create_task(self._run())
            self._pump.add_done_callback(self._ended)

    async def _run(self) -> None:
        """The pump: admit, decode, and let others run, until nobody waits."""
        seen = -1
        while seen != (seen := sum(map(len, self._groups()))):
            await asyncio.sleep(0)  # requests on their way can still share the first prefill
        while self._queue or self._running.requests:
            began = time.perf_counter()
            if self._stale:
                self._running.rebuild()
                self._stale = False
            groups = self._admitted()
            if groups:
                self._running.join(groups, self._version)
            if self._running.requests:
                self._running.step(self._version)
            self._seconds += time.perf_counter() - began
            await asyncio.sleep(0)
        self._model.rest()

    def _admitted(self) -> list[Group]:
        """The groups whose turn it is. One that does not fit yet waits, to share its prefill."""
        groups: list[Group] = []
        room, free = self._running.room, self._budget - self._running.held
        if room < self._rows // FEW or free < self._budget // FEW:
            return groups
        while self._queue and room:
            head = self._queue[0]
            if isinstance(head, asyncio.Future):
                if room == self._rows and not head.done():
                    head.set_result(None)
                break
            limit, prompt = max(request.limit for request in head), head[0].prompt
            each = self._model.room(len(prompt), limit, len(head))
            some = max(1, min(len(head), self._rows, self._budget // each))
            if room < some or (free < some * each and room < self._rows):
                break
            groups.append(head[:some])
            for request in groups[-1]:
                request.held = each
            room, free = room - some, free - some * each
            del head[:some]
            if not head:
                self._unqueue(head, prompt)
        return groups

    def _drop(self, request: Request) -> None:
        """Forget a request that nobody waits for any more."""
        self._running.drop(request)
        for group in self._groups():
            if request in group:
                group.remove(request)
                if not group:
                    self._unqueue(group, request.prompt)

    def _groups(self) -> list[Group]:
        return [item for item in self._queue if isinstance(item, list)]

    def _unqueue(self, group: Group, prompt: tuple[int, ...]) -> None:
        index = next(i for i, item in enumerate(self._queue) if item is group)
        del self._queue[index]
        if self._joinable.get(prompt) is group:
            del self._joinable[prompt]

    def _ended(self, pump: asyncio.Task[None]) -> None:
        """What stopped the pump early is raised in everyone who waits for it."""
        error = None if pump.cancelled() else pump.exception()
        if error is None and not pump.cancelled():
            return
        requests = [*self._running.requests, *(r for group in self._groups() for r in group)]
        waiting: list[asyncio.Future[Any]] = [request.call.answers for request in requests]
        waiting += [item for item in self._queue if isinstance(item, asyncio.Future)]
        self._reset()
        for future in waiting:
            if error is None:
                future.cancel()
            elif not future.done():
                future.set_exception(error)

    def _reset(self) -> None:
        self._queue, self._joinable = deque(), {}
        slots = Slots(self._rows, self._policy.eos, Stops(self._policy.tokenizer))
        self._running = Running(self._model, slots, self._rows)
        self._stale = False


def _available(device: torch.device) -> int:
    """Bytes of the device's memory that can be had now."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine.memory()
