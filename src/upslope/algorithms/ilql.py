"""ILQL: recorded answers imitated, and sampled from with what Q says of each token added.
arXiv:2206.11871.

    V: |tau - 1(Q < V)| (Q - V)^2,  Q of the copy that follows, the lower of twins
    Q: (Q - r - gamma V')^2 - critic.conservative log softmax(Q)
    policy: -log policy
    sampled from: log policy + critic.decode (Q - V)

V' is the value at the next trained token, 0 after the last. Q is linear in the state that the
policy's head reads: engine, evaluation and the model that is saved have one head for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

from torch import Tensor

from upslope import losses
from upslope.algorithms import parts, quality
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read
from upslope.critic import Critic

TILTED = replace(quality.TWINS, decode=8.0)


@final
@dataclass(frozen=True)
class ILQL:
    """``tau``: which expectile of Q a state is worth; 0.5 is their mean, near 1 their best.

    ``critic.decode`` is the paper's beta: nats that a token gains for each unit of Q.
    """

    gamma: float = 1.0
    tau: float = 0.7
    critic: Critic = TILTED

    needs: ClassVar[frozenset[Column]] = frozenset({"q", "values"})
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs", "q", "values"})
    couples: ClassVar[Couples] = "trajectory"
    claims: ClassVar[frozenset[Claim]] = frozenset({"any_policy", "policy_gradient"})
    keep, start, advance = parts.keep_all, quality.start, quality.advance
    learns, report = quality.learns, quality.report

    def __post_init__(self) -> None:
        quality.refuse(self)

    def advantages(self, batch: Batch) -> Tensor:
        return batch.trained.float()

    def weights(self, batch: Batch) -> Tensor:
        return losses.token_mean(batch.trained)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        judged, seen = quality.loss(self, out, batch)
        return judged - out.logprobs, seen
