"""The requests being decoded: they join after a prefill, advance together, and leave one by one.

Bookkeeping between the model's rows, the slots and the requests; who waits, and why, is in
``local``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from upslope.engines.sampler import draw
from upslope.engines.slots import Ids, Mask, Slots
from upslope.models.cached import Cached
from upslope.models.decoder import Decoder
from upslope.types import Completion, Sampling, StopReason, Usage

SINGLE = {"mps"}  # devices without the float64 that drawing sums in: it is done on the CPU


Heard = Callable[[int, float], None]  # a token and its log-probability, as soon as it is sampled


@dataclass(eq=False, slots=True)
class Call:
    """Who waits for ``count`` requests; the answers, by place, are given once all are there.

    ``heard`` is told of each token of theirs.
    """

    answers: asyncio.Future[list[Completion]]
    count: int
    heard: Heard | None = None
    said: dict[int, Completion] = field(default_factory=dict)

    def answer(self, place: int, completion: Completion) -> None:
        """One request has ended."""
        self.said[place] = completion
        if len(self.said) == self.count and not self.answers.done():
            self.answers.set_result([self.said[i] for i in range(self.count)])


@dataclass(eq=False, slots=True)
class Request:
    """One completion of a prompt, and what it has cost.

    ``place``: which of its ``call``'s requests it is; ``spent``: the decode FLOPs of a row when it
    joined; ``held``: bytes that it may take.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int
    call: Call
    place: int
    slot: int = -1
    computed: int = 0
    cached: int = 0
    prefill_flops: float = 0.0
    spent: float = 0.0
    held: int = 0


Group = list[Request]  # of one prompt, so that it is prefilled once


class Running:
    """Every running request has a slot, and a row in the model; ``_ids`` is each row's slot."""

    def __init__(self, model: Decoder | Cached, slots: Slots, rows: int) -> None:
        """Nothing runs yet; at most ``rows`` requests ever will."""
        self._model, self._slots = model, slots
        self._free = list(range(rows))
        self._live: dict[int, Request] = {}
        self._aloud: dict[int, Heard] = {}  # by slot
        self._ids: Ids = np.arange(0)
        self._spent = 0.0
        self.held = 0  # bytes that the running requests may come to take
        model.clear()

    @property
    def requests(self) -> list[Request]:
        """Those that run now."""
        return list(self._live.values())

    @property
    def room(self) -> int:
        """How many more may join."""
        return len(self._free)

    def join(self, groups: list[Group], version: int) -> None:
        """Prefill groups, in as many passes as the model wants, and sample their first tokens."""
        if not self._live:
            self._spent = 0.0  # shares are the same whatever was decoded before: resumed runs are
        for chosen in self._model.passes([group[0].prompt for group in groups]):
            self._prefill([groups[i] for i in chosen], version)

    def step(self, version: int) -> None:
        """Sample one more token for every request; those that end get their answer."""
        before = self._model.flops
        logits = self._model.step(torch.from_numpy(self._slots.last(self._ids)))
        self._spent += (self._model.flops - before) / len(self._ids)
        self._leave(self._sampled(0, logits, version))

    def drop(self, request: Request) -> None:
        """Forget a request, if it runs."""
        if self._live.get(request.slot) is request:
            self._release(request.slot)
            self._leave(self._ids != request.slot)

    def rebuild(self) -> None:
        """Compute all stored keys and values again, with the weights as they are now."""
        requests = [self._live[slot] for slot in self._ids.tolist()]
        rows = [(*r.prompt, *self._slots.sampled(r.slot)[0][:-1].tolist()) for r in requests]
        self._model.clear()
        order: list[int] = []
        for chosen in self._model.passes(rows):
            before = self._model.flops
            self._model.prefill([rows[i] for i in chosen], range(len(chosen)))
            share = (self._model.flops - before) / len(chosen)
            for i, known in zip(chosen, self._model.known, strict=True):
                requests[i].computed += len(rows[i]) - known
                requests[i].prefill_flops += share
            order += chosen
        self._ids = self._ids[order]
        self._leave(np.ones(len(order), dtype=np.bool_))

    def _prefill(self, groups: list[Group], version: int) -> None:
        before, joined = self._model.flops, len(self._ids)
        owner = [i for i, group in enumerate(groups) for _ in group]
        logits = self._model.prefill([group[0].prompt for group in groups], owner)
        share = (self._model.flops - before) / len(owner)
        for group, known in zip(groups, self._model.known, strict=True):
            length = len(group[0].prompt)
            for request in group:
                request.cached, request.prefill_flops = length, share
                request.spent, request.slot = self._spent, self._free.pop()
                self._live[request.slot] = request
                self.held += request.held
                if request.call.heard is not None:
                    self._aloud[request.slot] = request.call.heard
            group[0].cached, group[0].computed = known, length - known
        joining = [request for group in groups for request in group]
        ids = np.array([request.slot for request in joining])
        asked = [request.sampling for request in joining]
        self._slots.admit(ids, asked, [request.limit for request in joining])
        self._ids = np.concatenate((self._ids, ids))
        self._leave(self._sampled(joined, logits[torch.tensor(owner)], version))

    def _sampled(self, first: int, logits: Tensor, version: int) -> Mask:
        """Sample for the rows from ``first`` on; which of all rows are still alive."""
        ids = self._ids[first:]
        temperature, uniform = map(torch.from_numpy, self._slots.randomness(ids))
        logits = logits.cpu() if logits.device.type in SINGLE else logits
        device = logits.device
        tokens, logprobs = draw(logits, temperature.to(device), uniform.to(device))
        drawn = tokens.cpu().numpy(), logprobs.cpu().numpy()
        if self._aloud:
            for slot, *said in zip(ids.tolist(), *(part.tolist() for part in drawn), strict=True):
                if slot in self._aloud:
                    self._aloud[slot](*said)
        ended, stopped = self._slots.record(ids, *drawn, version)
        for row in np.flatnonzero(ended).tolist():
            self._remember(first + row, version)
            self._answer(int(ids[row]), bool(stopped[row]))
        alive = np.ones(len(self._ids), dtype=np.bool_)
        alive[first:] = ~ended
        return alive

    def _remember(self, row: int, version: int) -> None:
        """Keep what the row was fed where its request wants that and all is of these weights."""
        request = self._live[int(self._ids[row])]
        if not request.sampling.continues:
            return
        tokens, _, versions = self._slots.sampled(request.slot)
        if versions[0] == version:
            self._model.remember(row, (*request.prompt, *tokens[:-1].tolist()))

    def _answer(self, slot: int, stopped: bool) -> None:
        request = self._live[slot]
        tokens, logprobs, versions = self._slots.sampled(slot)
        decoded = len(tokens), request.prefill_flops, self._spent - request.spent
        usage = Usage(request.computed, request.cached, *decoded)
        reason: StopReason = "stop" if stopped else "length"
        completion = Completion(tokens, logprobs, versions, reason, usage)
        request.call.answer(request.place, completion)
        self._release(slot)

    def _release(self, slot: int) -> None:
        self.held -= self._live.pop(slot).held
        self._aloud.pop(slot, None)
        self._free.append(slot)

    def _leave(self, alive: Mask) -> None:
        self._ids = self._ids[self._model.keep(alive)]
