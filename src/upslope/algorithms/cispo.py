"""CISPO: the importance weight is clipped, not the objective. arXiv:2506.13585, arXiv:2510.13786.

    A = (r - mean of the group) / std of the group
    loss = -sg(min(policy / old policy, weight_max)) A log policy

sg stops the gradient. Every token keeps a gradient; only an upper bound on the weight, as in
ScaleRL. The presets minimax and scalerl are settings of it.
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
class CISPO:
    """``weight_max``: policy / old policy counts up to it. ``scale``, ``zero_variance``: GRPO's."""

    weight_max: float = 5.0
    scale: Scale = "group"
    aggregation: Literal["sequence", "token", "prompt"] = "prompt"
    zero_variance: ZeroVariance = "count"
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, needs, reads = parts.couples, parts.needs, parts.reads
    claims = parts.group_claims
    keep, start, advance = parts.keep, parts.start, parts.advance

    def advantages(self, batch: Batch) -> Tensor:
        values = advantages.scaled(self.scale, *parts.compared(self, batch))
        return parts.spread(self, batch, values)

    def weights(self, batch: Batch) -> Tensor:
        counted = parts.group_counted(self, batch)
        return losses.aggregate(self.aggregation, counted, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        loss = losses.clipped_weight(out.logprobs, old, advantage, self.weight_max)
        share = (losses.ratio(out.logprobs.detach(), old) > self.weight_max).float()
        return parts.with_penalties(self, loss, {"clip/share": share}, out, batch)
