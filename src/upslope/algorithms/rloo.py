"""RLOO: REINFORCE with the mean of a group's other members as baseline. arXiv:2402.14740.

    A = r - mean of the other members
    loss = -sg(policy / old policy) A log policy

sg stops the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from upslope import advantages, losses
from upslope.advantages import Overlong
from upslope.algorithms import parts
from upslope.algorithms.parts import ZeroVariance
from upslope.batch import Batch, Outputs
from upslope.exploration import Explore
from upslope.losses import KL, Entropy


@final
@dataclass(frozen=True)
class RLOO:
    """The paper puts the KL in the reward: ``kl.place = "reward"``, ``kl.kind = "k1"``.

    ``aggregation``: "constant" sums a trajectory's log-probabilities, as the paper does, and
    divides by ``length`` to keep its scale beside the others.
    """

    aggregation: losses.Aggregation = "token"
    length: int = 64
    zero_variance: ZeroVariance = "count"
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, needs, reads = parts.couples, parts.needs, parts.reads
    claims = parts.group_claims
    keep, start, advance = parts.keep, parts.start, parts.advance

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    def advantages(self, batch: Batch) -> Tensor:
        return parts.spread(self, batch, advantages.leave_one_out(*parts.compared(self, batch)))

    def weights(self, batch: Batch) -> Tensor:
        counted, ids = parts.group_counted(self, batch), (batch.trajectory, batch.group)
        return losses.aggregate(self.aggregation, counted, *ids, self.length)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        loss = losses.policy_gradient(out.logprobs, old, advantage)
        return parts.with_penalties(self, loss, {}, out, batch)
