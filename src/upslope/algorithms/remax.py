"""ReMax: REINFORCE with the reward of a greedy reply as baseline. arXiv:2310.10505.

    A = r - reward of the greedy reply to the same problem
    loss = -sg(policy / old policy) A log policy

sg stops the gradient. Each problem is also played once at temperature 0; nothing is learned from
that play but the baseline, which needs no second member: ``rollout.group`` may be 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from upslope import advantages, losses
from upslope.advantages import Overlong
from upslope.algorithms import parts
from upslope.batch import Batch, Column, Outputs
from upslope.exploration import Explore
from upslope.losses import KL, Entropy


@final
@dataclass(frozen=True)
class ReMax:
    """``aggregation``: "constant" sums a trajectory's log-probabilities, as the paper does, and
    divides by ``length`` to keep its scale beside the others.
    """

    aggregation: losses.Aggregation = "token"
    length: int = 64
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, reads, claims = parts.couples, parts.reads, parts.claims
    keep, start, advance = parts.keep_all, parts.start, parts.advance

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    @property
    def needs(self) -> frozenset[Column]:
        return parts.columns(self) | {"greedy"}

    def advantages(self, batch: Batch) -> Tensor:
        reward, _, valid = parts.outcomes(batch, self.kl, self.overlong)
        if batch.greedy is None:
            raise ValueError("ReMax needs a greedy reply in each group")
        baseline, _ = batch.by_trajectory(batch.greedy)
        known = valid & ~baseline.isnan()
        values = advantages.less_baseline(reward, known, torch.nan_to_num(baseline))
        return parts.spread(self, batch, values)

    def weights(self, batch: Batch) -> Tensor:
        counted, ids = parts.counted(self, batch), (batch.trajectory, batch.group)
        return losses.aggregate(self.aggregation, counted, *ids, self.length)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        loss = losses.policy_gradient(out.logprobs, old, advantage)
        return parts.with_penalties(self, loss, {}, out, batch)
