"""A trajectory's segments as they grow: token rows, with what was sampled and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from upslope.types import Completion, Segment, StopReason, Turn


def answered(prompt: Sequence[int], said: Sequence[Completion]) -> Iterator[Segment]:
    """The segment of each completion of a prompt, as ``Rows`` makes it."""
    first = len(prompt)
    ends = [first + len(c.tokens) for c in said]
    tokens = np.empty((len(said), max(ends)), dtype=np.int32)
    tokens[:, :first] = prompt
    trained = np.arange(max(ends)) >= first
    logprobs, versions = np.zeros(tokens.shape, np.float32), np.full_like(tokens, -1)
    for row, (c, end) in enumerate(zip(said, ends, strict=True)):
        tokens[row, first:end], logprobs[row, first:end] = c.tokens, c.logprobs
        versions[row, first:end] = c.versions
        yield Segment(tokens[row, :end], trained[:end], logprobs[row, :end], versions[row, :end])


class Rows:
    """The segments of a trajectory as they grow; columns always have equal lengths."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.segments: list[Segment] = []
        self.turns: list[Turn] = []
        self._open(prompt)

    def _open(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)
        self.trained = [False] * len(prompt)
        self.logprobs = [0.0] * len(prompt)
        self.versions = [-1] * len(prompt)

    def sampled(self, completion: Completion, temperature: float) -> None:
        """Add a turn's tokens, exactly as the engine sampled them."""
        start = len(self.tokens)
        self.tokens += completion.tokens.tolist()
        self.trained += [True] * len(completion.tokens)
        self.logprobs += completion.logprobs.tolist()
        self.versions += completion.versions.tolist()
        stop = len(self.tokens)
        self.turns.append(Turn(len(self.segments), start, stop, completion.stop, temperature))

    def ended(self, reason: StopReason) -> None:
        """Say why the last turn did not go on."""
        self.turns[-1] = replace(self.turns[-1], stop_reason=reason)

    def rewritten(self, prompt: Sequence[int]) -> None:
        """Open another segment: the past is another one."""
        self.segments.append(self._segment())
        self._open(prompt)

    def extended(self, longer: list[int]) -> None:
        """Add tokens that were not sampled."""
        added = len(longer) - len(self.tokens)
        self.tokens = longer
        self.trained += [False] * added
        self.logprobs += [0.0] * added
        self.versions += [-1] * added

    def closed(self) -> list[Segment]:
        """All segments, the open one last."""
        return [*self.segments, self._segment()]

    def _segment(self) -> Segment:
        return Segment(
            np.array(self.tokens, dtype=np.int32),
            np.array(self.trained, dtype=np.bool_),
            np.array(self.logprobs, dtype=np.float32),
            np.array(self.versions, dtype=np.int32),
        )
