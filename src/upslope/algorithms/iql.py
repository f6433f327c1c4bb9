"""IQL with a conservative Q: answers weighed by how much better they are than their state is worth.
arXiv:2110.06169, arXiv:2006.04779.

    V: |tau - 1(Q < V)| (Q - V)^2,  Q of the copy that follows, the lower of twins
    Q: (Q - r - gamma V')^2 - critic.conservative log softmax(Q)
    policy: -min(exp((Q - V) / temperature), most) log policy

V' is the value at the next trained token, 0 after the last. From recorded answers with rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from upslope import losses
from upslope.algorithms import parts, quality
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read
from upslope.critic import Critic


@final
@dataclass(frozen=True)
class IQL:
    """``tau``: which expectile of Q a state is worth; 0.5 is their mean, near 1 their best.

    ``temperature`` and ``most`` of the policy's weights. ``critic.decode`` above 0 samples as
    ``ilql`` does.
    """

    gamma: float = 1.0
    tau: float = 0.8
    temperature: float = 0.2
    most: float = 20.0
    critic: Critic = quality.TWINS

    needs: ClassVar[frozenset[Column]] = frozenset({"q", "values"})
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs", "q", "values"})
    couples: ClassVar[Couples] = "trajectory"
    claims: ClassVar[frozenset[Claim]] = frozenset({"any_policy", "policy_gradient"})
    keep, start, advance = parts.keep_all, quality.start, quality.advance
    learns, report = quality.learns, quality.report

    def __post_init__(self) -> None:
        quality.refuse(self)
        if self.temperature <= 0 or self.most <= 0:
            raise ValueError("temperature and most must be above 0")

    def advantages(self, batch: Batch) -> Tensor:
        better = quality.better(batch) / self.temperature
        weight = better.clamp(max=20.0).exp().clamp(max=self.most)
        return torch.where(batch.trained, weight, 0.0)

    def weights(self, batch: Batch) -> Tensor:
        return losses.token_mean(batch.trained)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        _, weight = parts.filled(batch)
        judged, seen = quality.loss(self, out, batch)
        return judged - weight * out.logprobs, seen
