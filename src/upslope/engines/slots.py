"""The bookkeeping of the rows being decoded, in columns, so that a step costs no work per row.

A slot is the place a request holds from its admission to its end. No torch: arrays only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upslope.engines.stops import Stops
from upslope.types import Sampling

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Slots:
    """What each running request has sampled so far, and when it ends."""

    def __init__(self, count: int, eos: tuple[int, ...], stops: Stops) -> None:
        self._eos, self._stops = np.array(eos, dtype=np.int64), stops
        self._generator = np.random.Generator(np.random.Philox(key=0))
        self._philox = dict(self._generator.bit_generator.state)  # the start of a stream
        self._stop: list[tuple[str, ...]] = [()] * count
        self._has_stop = np.zeros(count, dtype=np.bool_)
        self.used, self._limit = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        self._temperature = np.zeros(count, dtype=np.float32)
        self._uniform = np.zeros((count, 0))
        self._tokens = np.zeros((count, 0), dtype=np.int64)
        self._logprobs = np.zeros((count, 0), dtype=np.float32)
        self._versions = np.zeros((count, 0), dtype=np.int32)

    def admit(self, ids: Ids, asked: Sequence[Sampling], limits: Sequence[int]) -> None:
        """Give the slots to requests of at most ``limits`` tokens; draws their uniform numbers."""
        if max(limits) > self._tokens.shape[1]:
            self._widen(max(*limits, 2 * self._tokens.shape[1]))
        self.used[ids], self._limit[ids] = 0, limits
        self._temperature[ids] = [sampling.temperature for sampling in asked]
        self._has_stop[ids] = [bool(sampling.stop) for sampling in asked]
        for slot, sampling, limit in zip(ids.tolist(), asked, limits, strict=True):
            self._stop[slot] = sampling.stop
            if sampling.temperature > 0:
                self._uniform[slot, :limit] = self._uniforms(sampling.seed, limit)

    def randomness(self, ids: Ids) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Temperatures and the uniform numbers for the next tokens."""
        return self._temperature[ids], self._uniform[ids, self.used[ids]]

    def last(self, ids: Ids) -> Ids:
        """The last sampled tokens."""
        last: Ids = self._tokens[ids, self.used[ids] - 1]
        return last

    def record(
        self, ids: Ids, tokens: Ids, logprobs: NDArray[np.float32], version: int
    ) -> tuple[Mask, Mask]:
        """Append one token to each row; which rows end, and which of these by a stop."""
        place = self.used[ids]
        self._tokens[ids, place] = tokens
        self._logprobs[ids, place] = logprobs
        self._versions[ids, place] = version
        self.used[ids] = place + 1
        stopped = (tokens[:, None] == self._eos).any(1)
        for row in np.flatnonzero(self._has_stop[ids] & ~stopped):
            slot = ids[row]
            sampled = self._tokens[slot, : self.used[slot]]
            stopped[row] = self._stops.complete(sampled, self._stop[slot])
        return stopped | (place + 1 == self._limit[ids]), stopped

    def sampled(self, slot: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Tokens, log-probabilities and versions of the slot's request: views, to be copied."""
        used = self.used[slot]
        return (
            self._tokens[slot, :used],
            self._logprobs[slot, :used],
            self._versions[slot, :used],
        )

    def _uniforms(self, seed: int, count: int) -> NDArray[np.float64]:
        """What ``Generator(Philox(key=seed)).random(count)`` gives, in a quarter of the time."""
        self._philox["state"]["key"][0] = seed % 2**64
        self._generator.bit_generator.state = self._philox
        return self._generator.random(count)

    def _widen(self, width: int) -> None:
        more = ((0, 0), (0, width - self._tokens.shape[1]))
        self._uniform, self._tokens = np.pad(self._uniform, more), np.pad(self._tokens, more)
        self._logprobs = np.pad(self._logprobs, more)
        self._versions = np.pad(self._versions, more)
