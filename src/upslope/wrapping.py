"""Algorithms around another one: what the rest may ask of them. They are in ``algorithms``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from upslope.batch import Algorithm


@runtime_checkable
class Wraps(Protocol):
    """An algorithm that changes another one's advantages or loss.

    ``compares``: whether all that it learns from is how members of a group differ.
    """

    @property
    def of(self) -> Algorithm: ...

    @property
    def compares(self) -> bool: ...


@runtime_checkable
class Constrains(Protocol):
    """One that holds costs to budgets. ``reported``: those that a reward has to report."""

    @property
    def reported(self) -> frozenset[str]: ...


@runtime_checkable
class Taught(Protocol):
    """One that learns from a teacher: a model's name, or a run's folder."""

    @property
    def teacher(self) -> str: ...


def layers(algorithm: Algorithm) -> Iterator[Algorithm]:
    """An algorithm, and what is inside of it, outermost first."""
    yield algorithm
    while isinstance(algorithm, Wraps):
        algorithm = algorithm.of
        yield algorithm


def compares(algorithm: Algorithm) -> bool:
    """Whether a group of one teaches it nothing."""
    if isinstance(algorithm, Wraps):
        return algorithm.compares
    return "equal_rewards_no_signal" in algorithm.claims


def reported(algorithm: Algorithm) -> frozenset[str]:
    """The costs that rewards have to report for it."""
    names = [one.reported for one in layers(algorithm) if isinstance(one, Constrains)]
    return frozenset[str]().union(*names)


def teachers(algorithm: Algorithm) -> list[str]:
    """The models that it learns from: one, or none."""
    return [one.teacher for one in layers(algorithm) if isinstance(one, Taught)]
