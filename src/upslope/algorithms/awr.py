"""AWR: imitation of every answer, the better the more. arXiv:1910.00177.

    A = r - baseline
    loss = -min(exp(A / beta), most) log policy

Nothing is asked of whoever gave the answers, so recorded ones and rollouts are learned from alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from upslope import advantages, losses
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read
from upslope.losses import KL


@final
@dataclass(frozen=True)
class AWR:
    """``beta``: a large one imitates all alike, a small one only what beats the ``baseline``: the
    mean reward of the answer's "group", of the whole "batch" (for groups of one), or the number
    ``given``. ``most`` bounds an answer's weight.
    """

    beta: float = 0.5
    most: float = 20.0
    baseline: Literal["group", "batch", "given"] = "group"
    given: float = 0.0
    aggregation: Literal["token", "sequence"] = "token"

    needs: ClassVar[frozenset[Column]] = parts.NO_COLUMNS
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "row"
    claims: ClassVar[frozenset[Claim]] = parts.POLICY_GRADIENT | {"any_policy"}
    keep, start, advance = parts.keep_all, parts.no_state, parts.same_state

    def __post_init__(self) -> None:
        if min(self.beta, self.most) <= 0:
            raise ValueError("beta and most must be above 0")
        if self.given and self.baseline != "given":
            raise ValueError('given is a baseline of its own: set baseline = "given"')

    def advantages(self, batch: Batch) -> Tensor:
        """The weight of each answer, on its trained tokens."""
        reward, group, valid = parts.outcomes(batch, KL())
        if self.baseline == "given":
            away = advantages.less_baseline(reward, valid, self.given)
        else:
            one = group if self.baseline == "group" else torch.zeros_like(group)
            away = advantages.centred(reward, one, valid)
        return batch.spread(advantages.exponential(away, self.beta, self.most) * valid)

    def weights(self, batch: Batch) -> Tensor:
        return losses.aggregate(self.aggregation, batch.trained, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert batch.advantages is not None
        cut = (batch.advantages >= self.most).to(out.logprobs.dtype)
        return -batch.advantages * out.logprobs, {"clip/share": cut}
