"""REINFORCE with a moving average of past rewards as baseline. Williams, 1992."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from upslope import advantages, losses
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read, State
from upslope.losses import KL
from upslope.types import Metrics


@final
@dataclass(frozen=True)
class Reinforce:
    """``decay`` of the baseline's moving average, which starts at 0; 1 keeps it there."""

    decay: float = 0.9
    aggregation: losses.Aggregation = "token"
    length: int = 64
    kl: KL = KL()

    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "row"
    keep = parts.keep_all

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be between 0 and 1, got {self.decay}")

    @property
    def needs(self) -> frozenset[Column]:
        return parts.columns_for(self.kl)

    @property
    def claims(self) -> frozenset[Claim]:
        return parts.claims_for(self.kl, grouped=False)

    def start(self) -> State:
        return {"baseline": 0.0}

    def advance(self, state: State, metrics: Metrics) -> State:
        mean = self.decay * state["baseline"] + (1 - self.decay) * metrics["reward/mean"]
        return {"baseline": mean}

    def advantages(self, batch: Batch) -> Tensor:
        reward, _, valid = parts.outcomes(batch, self.kl)
        baseline = (batch.state or self.start())["baseline"]
        return batch.spread(advantages.less_baseline(reward, valid, baseline))

    def weights(self, batch: Batch) -> Tensor:
        return losses.aggregate(
            self.aggregation, batch.trained, batch.trajectory, batch.group, self.length
        )

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        loss = losses.policy_gradient(out.logprobs, old, advantage)
        return parts.with_kl(loss, {}, out, batch, self.kl)
