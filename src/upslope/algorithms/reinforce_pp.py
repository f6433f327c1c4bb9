"""REINFORCE++: every token its KL-shaped return, whitened over the batch, and PPO's clip.
arXiv:2501.03262.

    R_t = sum over later tokens s of discount^(s - t) (r at the last token - beta log old/ref at s)
    A = (R_t - mean) / std, over all trained tokens of the batch
    loss = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A),  rho = policy / old policy

With ``baseline = "group"`` r is less its group's mean first (REINFORCE++-baseline).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from upslope import advantages, losses
from upslope.advantages import Overlong
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Outputs
from upslope.chains import Chains, to_go, whitened
from upslope.exploration import Explore
from upslope.losses import KL, Entropy


@final
@dataclass(frozen=True)
class ReinforcePP:
    """``scale`` "none" leaves the whitening out. A KL in the reward is paid token by token, so that
    no token pays for what was said before it.
    """

    discount: float = 1.0
    baseline: Literal["none", "group"] = "none"
    scale: Literal["batch", "none"] = "batch"
    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = 0.0
    aggregation: losses.Aggregation = "token"
    length: int = 64
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, needs, reads = parts.couples, parts.needs, parts.reads
    keep, start, advance = parts.keep_all, parts.start, parts.advance

    def __post_init__(self) -> None:
        parts.check_dual(self.clip_dual)
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must be between 0 and 1, got {self.discount:g}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    @property
    def claims(self) -> frozenset[Claim]:
        return parts.signals(self) - (frozenset() if self.baseline == "group" else parts.COMPARED)

    def advantages(self, batch: Batch) -> Tensor:
        reward, group, valid = parts.outcomes(batch, KL(), self.overlong)
        if self.baseline == "group":
            reward = advantages.centred(reward, group, valid)
        chains = Chains.of(batch.trained, batch.trajectory, batch.segment)
        _, member = batch.by_trajectory(batch.reward)
        earned = chains.at_end(reward[member]) - parts.kl_paid(self, batch)
        values = to_go(earned, chains, self.discount)
        if self.scale == "batch":
            values = whitened(values, parts.counted(self, batch))
        return parts.explored(self, batch, values)

    def weights(self, batch: Batch) -> Tensor:
        counted, ids = parts.counted(self, batch), (batch.trajectory, batch.group)
        return losses.aggregate(self.aggregation, counted, *ids, self.length)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, clip = parts.clipped(self, out, batch)
        return parts.with_penalties(self, loss, clip, out, batch)
