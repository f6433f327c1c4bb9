"""IPO: a preference as a distance to be reached, and not to be exceeded. arXiv:2310.12036.

    delta = log (policy / reference) of the chosen answer - the same of the rejected one
    loss = (delta - 1 / (2 beta))^2

DPO drives delta on for ever where a pair has one winner; here it has a goal. The pairs are DPO's.
The paper sums log-ratios over an answer's tokens; its authors say that its results are of their
mean, which is what TRL does and the default here.
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
class IPO:
    """``beta`` (the paper's tau): the goal is 1 / (2 ``beta``). ``score``: log-ratios averaged over
    an answer's tokens, or summed.
    """

    beta: float = 0.1
    score: pairwise.Score = "mean"

    needs: ClassVar[frozenset[Column]] = frozenset({"ref_logprobs"})
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "group"
    claims: ClassVar[frozenset[Claim]] = pairs.CLAIMS
    keep, start, advance = pairs.keep, parts.no_state, parts.same_state
    advantages, weights = pairs.advantages, pairs.weights

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        found = pairs.of(batch)
        score = pairs.scores(batch, pairs.log_ratio(batch, out.logprobs), self.score)
        delta = score[found.chosen] - score[found.rejected]
        return pairs.placed(batch, found, pairwise.ipo(delta, self.beta), delta)
