"""REINFORCE with a moving average of past rewards as baseline. Williams, 1992.

    A = r - baseline
    loss = -sg(policy / old policy) A log policy

sg stops the gradient. The baseline after a step is decay * baseline + (1 - decay) * mean r.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from upslope import advantages, losses
from upslope.advantages import Overlong
from upslope.algorithms import parts
from upslope.batch import Batch, Outputs, State
from upslope.exploration import Explore
from upslope.losses import KL, Entropy
from upslope.types import Metrics


@final
@dataclass(frozen=True)
class Reinforce:
    """``decay`` of the baseline's moving average, which starts at 0; 1 keeps it there."""

    decay: float = 0.9
    aggregation: losses.Aggregation = "token"
    length: int = 64
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, needs, reads = parts.couples, parts.needs, parts.reads
    claims = parts.claims
    keep = parts.keep_all

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be between 0 and 1, got {self.decay}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")

    def start(self) -> State:
        return {"baseline": 0.0, **parts.start(self)}

    def advance(self, state: State, metrics: Metrics) -> State:
        state = parts.advance(self, state, metrics)
        if metrics.get("reward/invalid_share") == 1:
            return state  # no reward was given, which is none of 0
        mean = self.decay * state["baseline"] + (1 - self.decay) * metrics["reward/mean"]
        return {**state, "baseline": mean}

    def advantages(self, batch: Batch) -> Tensor:
        reward, _, valid = parts.outcomes(batch, self.kl, self.overlong)
        baseline = (batch.state or self.start())["baseline"]
        return parts.spread(self, batch, advantages.less_baseline(reward, valid, baseline))

    def weights(self, batch: Batch) -> Tensor:
        counted, ids = parts.counted(self, batch), (batch.trajectory, batch.group)
        return losses.aggregate(self.aggregation, counted, *ids, self.length)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        old, advantage = parts.filled(batch)
        loss = losses.policy_gradient(out.logprobs, old, advantage)
        return parts.with_penalties(self, loss, {}, out, batch)
