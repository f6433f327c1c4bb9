"""RLOO: REINFORCE with the mean of a group's other members as baseline. arXiv:2402.14740."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from upslope import advantages, losses
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read
from upslope.losses import KL


@final
@dataclass(frozen=True)
class RLOO:
    """The paper puts the KL in the reward: ``kl.place = "reward"``, ``kl.kind = "k1"``.

    ``aggregation``: "constant" sums a trajectory's log-probabilities, as the paper does, and
    divides by ``length`` to keep its scale beside the others.
    """

    aggregation: losses.Aggregation = "token"
    length: int = 64
    kl: KL = KL()

    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "row"
    keep, start, advance = parts.keep_all, parts.no_state, parts.same_state

    @property
    def needs(self) -> frozenset[Column]:
        return parts.columns_for(self.kl)

    @property
    def claims(self) -> frozenset[Claim]:
        return parts.claims_for(self.kl, grouped=True)

    def advantages(self, batch: Batch) -> Tensor:
        return batch.spread(advantages.leave_one_out(*parts.outcomes(batch, self.kl)))

    def weights(self, batch: Batch) -> Tensor:
        return losses.aggregate(
            self.aggregation, batch.trained, batch.trajectory, batch.group, self.length
        )

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        loss = losses.policy_gradient(out.logprobs, old, advantage)
        return parts.with_kl(loss, {}, out, batch, self.kl)
