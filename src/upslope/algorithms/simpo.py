"""SimPO: a pair's mean log-probabilities a margin apart, without a reference. arXiv:2405.14734.

    loss = -log sigmoid(beta (mean log policy of the chosen - of the rejected answer) - gamma)

The pairs are DPO's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from upslope import pairwise
from upslope.algorithms import pairs, parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read


@final
@dataclass(frozen=True)
class SimPO:
    """``gamma``: the margin to be reached, in the units of beta times a mean log-probability."""

    beta: float = 2.0
    gamma: float = 0.5

    needs: ClassVar[frozenset[Column]] = parts.NO_COLUMNS
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "group"
    claims: ClassVar[frozenset[Claim]] = pairs.CLAIMS
    keep, start, advance = pairs.keep, parts.no_state, parts.same_state
    advantages, weights = pairs.advantages, pairs.weights

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.gamma < 0:
            raise ValueError("beta must be above 0, and gamma not negative")

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        found = pairs.of(batch)
        score = pairs.scores(batch, out.logprobs, "mean")
        chosen, rejected = score[found.chosen], score[found.rejected]
        loss = pairwise.simpo(chosen, rejected, self.beta, self.gamma)
        return pairs.placed(batch, found, loss, self.beta * (chosen - rejected))
