"""KTO: answers that are good or bad, each by itself and without a pair. arXiv:2402.01306.

    z = max(0, mean over the batch of log (policy / reference))
    loss = w (1 - sigmoid(+-beta (log (policy / reference) - z))),  + for a good answer, - for a bad

z is taken once a step, before its first update, from the batch's own answers. That is the KL where
these are the policy's own; TRL takes other problems' answers, which needs two more passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from upslope import pairwise
from upslope.algorithms import pairs, parts
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read


@final
@dataclass(frozen=True)
class KTO:
    """An answer is good where its reward is above ``threshold``. ``good`` and ``bad`` weigh the two
    kinds; the paper wants good n_good between 1 and 4/3 of bad n_bad.
    """

    beta: float = 0.1
    threshold: float = 0.5
    good: float = 1.0
    bad: float = 1.0

    needs: ClassVar[frozenset[Column]] = frozenset({"old_logprobs", "ref_logprobs"})
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "trajectory"
    claims: ClassVar[frozenset[Claim]] = frozenset({"any_policy"})
    keep, start, advance = parts.keep_all, parts.no_state, parts.same_state

    def __post_init__(self) -> None:
        if self.beta <= 0 or min(self.good, self.bad) < 0:
            raise ValueError("beta must be above 0, and good and bad not negative")

    def advantages(self, batch: Batch) -> Tensor:
        """z on every trained token: what an answer's log-ratio is measured against."""
        if batch.old_logprobs is None:
            raise ValueError("KTO's baseline needs old_logprobs filled")
        total = (pairs.log_ratio(batch, batch.old_logprobs) * batch.trained).sum()
        answers = len(torch.unique(batch.trajectory[batch.trained.any(1)]))
        return (total / max(answers, 1)).clamp(min=0) * batch.trained

    def weights(self, batch: Batch) -> Tensor:
        rows, tokens, ids = pairs.anchored(batch, batch.trajectory, batch.trained.any(1))
        column = torch.zeros(batch.tokens.shape)
        each = torch.where(batch.reward[rows] > self.threshold, self.good, self.bad)
        column[rows, tokens] = each / max(len(ids), 1)
        return column

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert batch.advantages is not None
        rows, tokens, _ = pairs.anchored(batch, batch.trajectory, batch.trained.any(1))
        total = pairs.totals(batch, pairs.log_ratio(batch, out.logprobs), batch.trained)
        total = total[torch.isin(torch.unique(batch.trajectory), batch.trajectory[rows])]
        good, z = batch.reward[rows] > self.threshold, batch.advantages[rows, tokens]
        loss = pairwise.kto(total, good, z, self.beta)
        column = loss.new_zeros(batch.tokens.shape).index_put((rows, tokens), loss)
        return column, {"preference/baseline": batch.advantages}
