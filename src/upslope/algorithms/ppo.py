"""PPO: a critic's values as baseline, token by token, and a clipped ratio. arXiv:1707.06347.

    A = sum over later tokens of (gamma lambda_actor)^k (r + gamma V' - V)
    policy: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A),  rho = policy / old policy
    values: 1/2 (V - R)^2,  R = V + the same sum with lambda_critic

V' is the value at the next trained token. With ``actions = "turn"`` a turn is one action: V is the
value where it begins, r what it earned, and its tokens share its A. The preset vc_ppo learns values
first, from whole returns (VC-PPO, arXiv:2503.01491).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from upslope import losses
from upslope.advantages import Overlong
from upslope.algorithms import parts, valued
from upslope.algorithms.valued import Actions, Truncated
from upslope.batch import Batch, Outputs
from upslope.chains import whitened
from upslope.critic import Critic
from upslope.exploration import Explore
from upslope.losses import KL, Entropy

CLIPPED = Critic(clip=0.2)


@final
@dataclass(frozen=True)
class PPO:
    """``truncated``: whether a reply cut by the length limit has earned what it was graded, or goes
    on as its values say. ``scale``: advantages less their mean, over the std of the batch's, or as
    they are. ``critic``: where values come from, their loss, and when the policy begins to learn.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    clip_dual: float = 0.0
    gamma: float = 1.0
    lambda_actor: float = 0.95
    lambda_critic: float = 0.95
    actions: Actions = "token"
    truncated: Truncated = "terminal"
    scale: Literal["batch", "none"] = "batch"
    aggregation: Literal["sequence", "token", "prompt"] = "token"
    critic: Critic = CLIPPED
    overlong: Overlong = Overlong()
    entropy: Entropy = Entropy()
    kl: KL = KL()
    explore: Explore = Explore()

    couples = parts.trajectory_couples
    needs, reads, claims = valued.needs, valued.reads, valued.claims
    keep, start, advance = parts.keep_all, valued.start, valued.advance
    learns, report = valued.learns, valued.report

    def __post_init__(self) -> None:
        lambdas = {"lambda_actor": self.lambda_actor, "lambda_critic": self.lambda_critic}
        valued.refuse(self, {"gamma": self.gamma, **lambdas})

    def advantages(self, batch: Batch) -> Tensor:
        course = valued.course(self, batch)
        found = course.advantages(self.gamma, self.lambda_actor)
        found = whitened(found, course.counted) if self.scale == "batch" else found
        return parts.explored(self, batch, found)

    def weights(self, batch: Batch) -> Tensor:
        counted = valued.counted(self, batch)
        return losses.aggregate(self.aggregation, counted, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, clip = parts.clipped(self, out, batch)
        values, seen = valued.value_loss(self, out, batch)
        return parts.with_penalties(self, loss + values, {**clip, **seen}, out, batch)
