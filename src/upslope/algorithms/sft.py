"""SFT: cross-entropy on recorded replies. The same loop as RL, with another source.

    loss = -log policy

What replies earned is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from upslope import losses
from upslope.algorithms import parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read


@final
@dataclass(frozen=True)
class SFT:
    """``aggregation``: "token" is the usual mean over tokens, "sequence" weighs replies equally."""

    aggregation: Literal["token", "sequence"] = "token"

    needs: ClassVar[frozenset[Column]] = parts.NO_COLUMNS
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "row"
    keep, start, advance = parts.keep_all, parts.no_state, parts.same_state
    # Its advantage is 1 everywhere, so that it is the policy gradient of a reward of 1.
    claims: ClassVar[frozenset[Claim]] = frozenset({"policy_gradient", "any_policy"})

    def advantages(self, batch: Batch) -> Tensor:
        return batch.trained.float()

    def weights(self, batch: Batch) -> Tensor:
        return losses.aggregate(self.aggregation, batch.trained, batch.trajectory, batch.group)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return -out.logprobs, {}
