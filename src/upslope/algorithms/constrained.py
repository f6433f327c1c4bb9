"""Constrained: another algorithm, with costs held to budgets by multipliers. arXiv:2310.12773.

    A = (A of the reward - sum of multiplier * A of a cost) / (1 + sum of multipliers)

Each A is the algorithm's own, with a cost as it is in place of the reward: no penalty is taken off
it, and a moving average is of the cost. A multiplier rises while a step's mean cost is over budget
(arXiv:2310.12773, 2007.03964). With advantages that are not scaled (``of.scale = "none"``) it is a
price at the optimum: the reward that a unit more of budget would bring.

Costs are ``length`` (sampled tokens), ``turns``, ``truncated`` (1 where a length limit cut it),
``kl`` (to the policy that the stage began with, in nats) and those that a reward names in its
``costs``; a trajectory whose reward does not name one leaves that cost's means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, final

from torch import Tensor

from upslope import costs
from upslope.algorithms import ALGORITHMS, inner, nesting
from upslope.algorithms.grpo import GRPO
from upslope.batch import Algorithm, Batch, Column, Outputs, State
from upslope.constraints import Constraint
from upslope.types import Group, Metrics


@final
@dataclass(frozen=True)
class Constrained:
    """``costs``: a table for each, by name. ``of``: the algorithm, a table with a ``type``."""

    costs: Mapping[str, Constraint]
    of: Annotated[Algorithm, ALGORITHMS] = GRPO()

    reads, couples, claims, compares = inner.reads, inner.couples, inner.claims, inner.compares

    def __post_init__(self) -> None:
        costs.refuse(self.of, self.costs)
        nesting.refuse(self.of)

    @property
    def reported(self) -> frozenset[str]:
        return frozenset(self.costs) - costs.OWN

    @property
    def needs(self) -> frozenset[Column]:
        return self.of.needs | (costs.KL_NEEDS if "kl" in self.costs else frozenset())

    def keep(self, group: Group) -> bool:
        return any(self.of.keep(view) for view in costs.views(group, self.costs))

    def start(self) -> State:
        return {**self.of.start(), **costs.begun(self.costs, self.of)}

    def advance(self, state: State, metrics: Metrics) -> State:
        inside = self.of.advance(costs.others(state), metrics)
        return {**inside, **costs.advanced(self.costs, state, metrics, self.of)}

    def report(self, batch: Batch) -> Metrics:
        said = costs.report(self.costs, batch.state or self.start(), batch)
        return inner.report(self, costs.inside(batch)) | said

    def advantages(self, batch: Batch) -> Tensor:
        total, prices = self.of.advantages(costs.inside(batch)), 1.0
        for name in self.costs:
            price = costs.own(batch.state or self.start(), name)["multiplier"]
            if price:
                total = total - price * self.of.advantages(costs.priced(batch, name))
                prices += price
        return total / prices

    def weights(self, batch: Batch) -> Tensor:
        return self.of.weights(costs.inside(batch))

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.of.loss(out, costs.inside(batch))
