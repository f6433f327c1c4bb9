"""Pass@k training: a reply is worth what it adds to the best of k. arXiv:2508.10751.

    A = (mean over the subsets of k replies with this one of their best r - mean over all) / std
    loss = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A),  rho = policy / old policy

In closed form, for right and wrong answers and for any other rewards. A right reply to a problem
that is mostly solved is worth little, so that the policy is not paid for sharpening alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

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
class PassAtK:
    """``k`` below ``rollout.group``; 1 is the mean reward. ``scale`` "none" leaves the std out."""

    k: int = 4
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = 0.0
    scale: Literal["group", "none"] = "group"
    aggregation: losses.Aggregation = "sequence"
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
        parts.check_dual(self.clip_dual)
        if min(self.k, self.length) < 1:
            raise ValueError(f"k={self.k} and length={self.length} must be at least 1")

    def advantages(self, batch: Batch) -> Tensor:
        values = advantages.best_of(*parts.compared(self, batch), self.k, self.scale)
        return parts.spread(self, batch, values)

    def weights(self, batch: Batch) -> Tensor:
        counted, ids = parts.group_counted(self, batch), (batch.trajectory, batch.group)
        return losses.aggregate(self.aggregation, counted, *ids, self.length)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, clip = parts.clipped(self, out, batch)
        return parts.with_penalties(self, loss, clip, out, batch)
