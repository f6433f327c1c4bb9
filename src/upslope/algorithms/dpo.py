"""DPO: of two answers to one problem, the better one becomes more likely. arXiv:2305.18290.

    delta = log (policy / reference) of the chosen answer - the same of the rejected one
    loss = -log sigmoid(beta delta)

From recorded pairs, or from the policy's own groups: their best against their worst members, all
pairs of these where several are equal. With rollouts it is online DPO, with ``source.sync`` above 1
semi-online DPO (arXiv:2506.21495), and on recorded pairs the DPO of the paper.
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
class DPO:
    """``beta``: how dear it is to leave the reference. ``form``: the sigmoid, a "hinge", or the
    sigmoid made "robust" to a share ``smoothing`` of labels that are wrong (arXiv:2403.00409); with
    "sigmoid" these are allowed for conservatively. ``score``: log-ratios summed over an answer's
    tokens, as in the paper, or their mean. ``margin``: how much of the difference of a pair's
    rewards delta must exceed (ODPO, arXiv:2402.10571).
    """

    beta: float = 0.1
    form: pairwise.Form = "sigmoid"
    smoothing: float = 0.0
    score: pairwise.Score = "sum"
    margin: float = 0.0

    needs: ClassVar[frozenset[Column]] = frozenset({"ref_logprobs"})
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "group"
    claims: ClassVar[frozenset[Claim]] = pairs.CLAIMS
    keep, start, advance = pairs.keep, parts.no_state, parts.same_state
    advantages, weights = pairs.advantages, pairs.weights

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.margin < 0:
            raise ValueError("beta must be above 0, and margin not negative")
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing is a share of labels below 0.5, got {self.smoothing}")
        if self.form == "hinge" and self.smoothing:
            raise ValueError('a hinge has no smoothing: leave it out, or use form = "sigmoid"')

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        found = pairs.of(batch)
        score = pairs.scores(batch, pairs.log_ratio(batch, out.logprobs), self.score)
        reward, _ = batch.by_trajectory(batch.reward)
        delta = score[found.chosen] - score[found.rejected]
        asked = self.margin * (reward[found.chosen] - reward[found.rejected])
        loss = pairwise.dpo(delta - asked / self.beta, self.beta, self.form, self.smoothing)
        return pairs.placed(batch, found, loss, self.beta * delta)
