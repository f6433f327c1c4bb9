"""GRPO: a group's standardised rewards and PPO's clip. arXiv:2402.03300.

    A = (r - mean of the group) / std of the group
    loss = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A),  rho = policy / old policy

The presets dapo and magistral are settings of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from upslope import advantages, losses
from upslope.advantages import Overlong, Scale
from upslope.algorithms import parts
from upslope.algorithms.parts import ZeroVariance
from upslope.batch import Batch, Outputs
from upslope.exploration import Explore
from upslope.losses import KL, Entropy


@final
@dataclass(frozen=True)
class GRPO:
    """PPO's clip with separate bounds, on rewards less their group's mean.

    ``clip_dual``: where A < 0 the loss is at most so many times -A (arXiv:1912.09729); 0 is none.
    ``scale``: what these are divided by: their group's std, the batch's, or nothing.
    ``zero_variance``: whether groups of equal rewards count in the means, are dropped from them,
    or others are played in their place.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = 0.0
    scale: Scale = "group"
    aggregation: Literal["sequence", "token", "prompt"] = "sequence"
    zero_variance: ZeroVariance = "count"
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, needs, reads = parts.couples, parts.needs, parts.reads
    claims = parts.group_claims
    keep, start, advance = parts.keep, parts.start, parts.advance

    def __post_init__(self) -> None:
        parts.check_dual(self.clip_dual)

    def advantages(self, batch: Batch) -> Tensor:
        values = advantages.scaled(self.scale, *parts.compared(self, batch))
        return parts.spread(self, batch, values)

    def weights(self, batch: Batch) -> Tensor:
        counted = parts.group_counted(self, batch)
        return losses.aggregate(self.aggregation, counted, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, clip = parts.clipped(self, out, batch)
        return parts.with_penalties(self, loss, clip, out, batch)
