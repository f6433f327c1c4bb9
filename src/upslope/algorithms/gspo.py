"""GSPO: GRPO with one ratio for a whole trajectory, and its clip. arXiv:2507.18071.

    A = (r - mean of the group) / std of the group
    s = exp(mean over the trajectory's tokens of log(policy / old policy))
    loss = -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)

All tokens of a trajectory are clipped, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

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
class GSPO:
    """The ratio is the geometric mean of a trajectory's, so that the clip is narrower than GRPO's.

    Its clip is the paper's; ScaleRL (arXiv:2510.13786) needed about 0.004 on both sides. Means
    are over trajectories. ``clip_dual``, ``scale`` and ``zero_variance`` are
    GRPO's.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    clip_dual: float = 0.0
    scale: Scale = "group"
    zero_variance: ZeroVariance = "count"
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, needs, reads = parts.trajectory_couples, parts.needs, parts.reads
    claims = parts.group_claims
    keep, start, advance = parts.keep, parts.start, parts.advance

    def __post_init__(self) -> None:
        parts.check_dual(self.clip_dual)

    def advantages(self, batch: Batch) -> Tensor:
        values = advantages.scaled(self.scale, *parts.compared(self, batch))
        return parts.spread(self, batch, values)

    def weights(self, batch: Batch) -> Tensor:
        return losses.sequence_mean(parts.group_counted(self, batch), batch.trajectory)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        rho = losses.sequence_ratio(out.logprobs, old, batch.trained, batch.trajectory)
        loss, clip = parts.clipped_at(self, rho, advantage)
        return parts.with_penalties(self, loss, clip, out, batch)
