"""GRPO: a group's standardised rewards and PPO's clip. arXiv:2402.03300.

``aggregation = "prompt"`` with ``clip_high = 0.28`` is DAPO's loss (arXiv:2503.14476).
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
class GRPO:
    """PPO's clip with separate bounds, on advantages of mean 0 and std 1 in each group."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Literal["sequence", "token", "prompt"] = "sequence"
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
        return batch.spread(advantages.standardised(*parts.outcomes(batch, self.kl)))

    def weights(self, batch: Batch) -> Tensor:
        return losses.aggregate(self.aggregation, batch.trained, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        clip = (self.clip_low, self.clip_high)
        loss = losses.clipped_surrogate(out.logprobs, old, advantage, *clip)
        share = losses.clipped_share(out.logprobs.detach(), old, advantage, *clip)
        return parts.with_kl(loss, {"clip/share": share}, out, batch, self.kl)
