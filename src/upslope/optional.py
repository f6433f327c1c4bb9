"""What an algorithm may have beside ``batch.Algorithm``'s: a report, a critic, another algorithm
inside, costs with budgets, a teacher. Who asks for one of these finds it by its protocol here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from upslope.batch import Algorithm, Batch, State
from upslope.critic import Critic
from upslope.types import Metrics


@runtime_checkable
class Reports(Protocol):
    """What has something to say of a rollout batch, its advantages filled, before its updates."""

    def report(self, batch: Batch) -> Metrics:
        """Metrics of the step's row; ``advance`` is told of them, too."""


@runtime_checkable
class Critical(Protocol):
    """What an algorithm has, beside ``Algorithm``'s, whose needs or reads are values or Q."""

    @property
    def critic(self) -> Critic: ...

    def learns(self, state: State | None) -> bool:
        """Whether the policy is trained in this step, too, or its critic alone."""


def critic_of(algorithm: Algorithm) -> Critic | None:
    """The critic's settings; None of an algorithm without one."""
    return algorithm.critic if isinstance(algorithm, Critical) else None


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
    return not {"alone_no_signal", "equal_rewards_no_signal"}.isdisjoint(algorithm.claims)


def reported(algorithm: Algorithm) -> frozenset[str]:
    """The costs that rewards have to report for it."""
    names = [one.reported for one in layers(algorithm) if isinstance(one, Constrains)]
    return frozenset[str]().union(*names)


def teachers(algorithm: Algorithm) -> list[str]:
    """The models that it learns from: one, or none."""
    return [one.teacher for one in layers(algorithm) if isinstance(one, Taught)]
