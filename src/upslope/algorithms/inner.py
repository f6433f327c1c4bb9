"""What an algorithm around another one, ``of``, passes on to it.

It takes them as its own: ``needs, reads, couples = inner.needs, inner.reads, inner.couples``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from upslope.batch import Algorithm, Batch, Claim, Column, Couples, Outputs, Read, State
from upslope.optional import Reports
from upslope.optional import compares as compared
from upslope.types import Metrics


class Around(Protocol):
    """Whatever has another algorithm inside."""

    @property
    def of(self) -> Algorithm: ...


def _needs(self: Around) -> frozenset[Column]:
    return self.of.needs


def _reads(self: Around) -> frozenset[Read]:
    return self.of.reads


def _couples(self: Around) -> Couples:
    return self.of.couples


def _claims(self: Around) -> frozenset[Claim]:
    """Its own, but for what has no signal: there are other signals here."""
    return self.of.claims - {"alone_no_signal", "equal_rewards_no_signal"}


def _compares(self: Around) -> bool:
    return compared(self.of)


needs, reads, couples = property(_needs), property(_reads), property(_couples)
claims, compares = property(_claims), property(_compares)


def start(self: Around) -> State:
    """The inner one's."""
    return self.of.start()


def advance(self: Around, state: State, metrics: Metrics) -> State:
    """The inner one's."""
    return self.of.advance(state, metrics)


def weights(self: Around, batch: Batch) -> Tensor:
    """The inner one's."""
    return self.of.weights(batch)


def loss(self: Around, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The inner one's."""
    return self.of.loss(out, batch)


def report(self: Around, batch: Batch) -> Metrics:
    """The inner one's, where it has something to say."""
    return self.of.report(batch) if isinstance(self.of, Reports) else {}
