"""ORPO: imitation of the chosen answer, and odds in its favour, without a reference.
arXiv:2403.07691.

    loss = -log policy of the chosen answer - beta log sigmoid(log odds ratio)

Both by an answer's mean log-probability p: its odds are p / (1 - p). The pairs are DPO's.
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
class ORPO:
    """``beta`` (the paper's lambda): what the odds weigh beside the imitation."""

    beta: float = 0.1

    needs: ClassVar[frozenset[Column]] = parts.NO_COLUMNS
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "group"
    claims: ClassVar[frozenset[Claim]] = pairs.CLAIMS
    keep, start, advance = pairs.keep, parts.no_state, parts.same_state
    advantages, weights = pairs.advantages, pairs.weights

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        found = pairs.of(batch)
        score = pairs.scores(batch, out.logprobs, "mean")
        chosen, rejected = score[found.chosen], score[found.rejected]
        loss = pairwise.orpo(chosen, rejected, self.beta)
        return pairs.placed(batch, found, loss, pairwise.log_odds(chosen, rejected))
