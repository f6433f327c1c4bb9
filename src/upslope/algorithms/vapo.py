"""VAPO: PPO with values learned first, lambda by length, and right replies imitated.
arXiv:2504.05118.

    A = sum over later tokens of (gamma lambda)^k (r + gamma V' - V)
    lambda = 1 - 1 / (alpha length)
    policy: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) - imitation log policy [r > 0]
    values: 1/2 (V - R)^2,  R = V + the same sum with lambda_critic

rho is policy / old policy, V' the value at the next trained token, length a reply's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from upslope import losses
from upslope.advantages import Overlong
from upslope.algorithms import parts, valued
from upslope.algorithms.valued import Truncated
from upslope.batch import Batch, Outputs
from upslope.chains import length_adaptive, whitened
from upslope.critic import Critic
from upslope.exploration import Explore
from upslope.losses import KL, Entropy

FIRST = Critic(place="separate", rate=2.0, gate=0.5, pretrain=100)


@final
@dataclass(frozen=True)
class VAPO:
    """``alpha`` for the paper's long replies; of one shorter than 1 / alpha, lambda is 0.

    The paper takes the mean of the imitation over right replies; here it is over all tokens.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    clip_dual: float = 0.0
    gamma: float = 1.0
    alpha: float = 0.05
    lambda_critic: float = 1.0
    imitation: float = 0.1
    truncated: Truncated = "terminal"
    scale: Literal["batch", "none"] = "batch"
    critic: Critic = FIRST
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples, actions = parts.trajectory_couples, valued.EACH_TOKEN
    needs, reads, claims = valued.needs, valued.reads, valued.NO_CLAIMS
    keep, start, advance = parts.keep_all, valued.start, valued.advance
    learns, report = valued.learns, valued.report

    def __post_init__(self) -> None:
        valued.refuse(self, {"gamma": self.gamma, "lambda_critic": self.lambda_critic})
        if self.alpha <= 0 or self.imitation < 0:
            raise ValueError("alpha must be above 0, and imitation not negative")

    def advantages(self, batch: Batch) -> Tensor:
        course = valued.course(self, batch)
        decay = length_adaptive(course.chains.count, self.alpha)
        found = course.advantages(self.gamma, decay)
        found = whitened(found, course.counted) if self.scale == "batch" else found
        return parts.explored(self, batch, found)

    def weights(self, batch: Batch) -> Tensor:
        return losses.token_mean(valued.counted(self, batch))

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, clip = parts.clipped(self, out, batch)
        loss = loss - self.imitation * (batch.reward > 0)[:, None] * out.logprobs
        values, seen = valued.value_loss(self, out, batch)
        return parts.with_penalties(self, loss + values, {**clip, **seen}, out, batch)
