"""RAFT: imitation of the best of the policy's own answers. arXiv:2304.06767.

    loss = -log policy,  of a group's answers that earned at least ``threshold``

Also called rejection-sampling fine-tuning (RFT, arXiv:2308.01825), and with ``top = 1`` best-of-n
SFT. On recorded answers it is behaviour cloning of the good ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from upslope import advantages, losses
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read
from upslope.losses import KL
from upslope.types import Group


@final
@dataclass(frozen=True)
class RAFT:
    """``top``: of each group only so many of the best are imitated, and those that earned as much
    as the last of them; 0 is all that reach ``threshold``. A group of which none does is not kept:
    another is played. ``aggregation``: the mean over the imitated tokens, or over answers.
    """

    threshold: float = 1.0
    top: int = 0
    aggregation: Literal["token", "sequence"] = "token"

    needs: ClassVar[frozenset[Column]] = parts.NO_COLUMNS
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "row"
    claims: ClassVar[frozenset[Claim]] = parts.POLICY_GRADIENT | {"any_policy"}
    start, advance = parts.no_state, parts.same_state

    def __post_init__(self) -> None:
        if self.top < 0:
            raise ValueError(f"top is a number of answers, or 0 for all good ones, got {self.top}")

    def keep(self, group: Group) -> bool:
        return any(r.valid and r.total >= self.threshold for r in group.rewards)

    def advantages(self, batch: Batch) -> Tensor:
        """1 on what is imitated."""
        reward, group, valid = parts.outcomes(batch, KL())
        good = valid & (reward >= self.threshold)
        if self.top:
            good = good & advantages.among_best(self.top, reward, group, valid)
        return batch.spread(good.float())

    def weights(self, batch: Batch) -> Tensor:
        assert batch.advantages is not None
        imitated = batch.trained & (batch.advantages != 0)
        return losses.aggregate(self.aggregation, imitated, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert batch.advantages is not None
        return -batch.advantages * out.logprobs, {}
