"""Dr. GRPO: GRPO without the std and without length normalisation. arXiv:2503.20783.

    A = r - mean of the group
    loss = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A),  rho = policy / old policy

The sum over a trajectory's tokens is divided by ``length``, not by how many there are.
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
class DrGRPO:
    """``length``: the constant that divides token sums, best the rollout's ``max_tokens``.

    ``clip_dual`` is GRPO's.
    """

    length: int = 64
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = 0.0
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
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    def advantages(self, batch: Batch) -> Tensor:
        return parts.spread(self, batch, advantages.centred(*parts.compared(self, batch)))

    def weights(self, batch: Batch) -> Tensor:
        counted = parts.group_counted(self, batch)
        return losses.constant_length(counted, batch.trajectory, self.length)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, clip = parts.clipped(self, out, batch)
        return parts.with_penalties(self, loss, clip, out, batch)
