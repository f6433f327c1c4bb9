"""CISPO: the importance weight is clipped, not the objective. arXiv:2506.13585, 2510.13786.

Every token keeps a gradient; only an upper bound on the weight, as in ScaleRL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from upslope import advantages, losses
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read
from upslope.losses import KL


@final
@dataclass(frozen=True)
class CISPO:
    """``scale``: what a centred reward is divided by: its group's std, the batch's, or nothing."""

    weight_max: float = 5.0
    scale: Literal["group", "batch", "none"] = "group"
    aggregation: Literal["sequence", "token", "prompt"] = "prompt"
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
        scaled = {
            "group": advantages.standardised,
            "batch": advantages.batch_standardised,
            "none": advantages.centred,
        }
        return batch.spread(scaled[self.scale](*parts.outcomes(batch, self.kl)))

    def weights(self, batch: Batch) -> Tensor:
        return losses.aggregate(self.aggregation, batch.trained, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        loss = losses.clipped_weight(out.logprobs, old, advantage, self.weight_max)
        clipped = (losses.ratio(out.logprobs.detach(), old) > self.weight_max).float()
        return parts.with_kl(loss, {"clip/share": clipped}, out, batch, self.kl)
