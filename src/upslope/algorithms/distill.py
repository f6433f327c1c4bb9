"""Distill: a larger policy says of each token that the policy sampled how likely it would be there.
arXiv:2306.13649.

    A = strength * (log teacher / sampler, less its mean over the batch) + reward * A of the reward

The first part's gradient is that of the reverse KL of each token's distribution, KL(policy ||
teacher), where the policy itself goes (on-policy distillation, arXiv:2306.13649); the mean takes
noise away. Loss and means are those of the algorithm inside, and so is the A of the reward. With
``reward`` 0, as by default, nothing that an env says is learned from, and settings of the algorithm
inside that act through its advantages are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from upslope.algorithms import ALGORITHMS, inner, nesting
from upslope.algorithms.grpo import GRPO
from upslope.batch import Algorithm, Batch, Column
from upslope.losses import kl
from upslope.types import Group, Metrics


@final
@dataclass(frozen=True)
class Distill:
    """``teacher``: a run's folder or a model, with the tokenizer of the policy that learns.

    ``reward``: the weight of the reward's advantages, beside ``strength`` for the teacher's word.
    """

    teacher: str
    strength: float = 1.0
    reward: float = 0.0
    of: Annotated[Algorithm, ALGORITHMS] = GRPO(aggregation="token")

    compares: ClassVar[bool] = False  # the teacher has something to say of every row
    reads, couples, claims = inner.reads, inner.couples, inner.claims
    start, advance, weights, loss = inner.start, inner.advance, inner.weights, inner.loss

    def __post_init__(self) -> None:
        if not self.strength > 0 or self.reward < 0:
            raise ValueError("strength must be above 0, and reward not below it")
        nesting.refuse(self.of)
        if not self.reward:
            nesting.refuse_unheard(self.of)

    @property
    def needs(self) -> frozenset[Column]:
        return self.of.needs | {"teacher_logprobs"}

    def keep(self, group: Group) -> bool:
        return True

    def report(self, batch: Batch) -> Metrics:
        apart = distance(batch)[batch.trained]
        return inner.report(self, batch) | {
            "kl/teacher": float(apart.mean()) if len(apart) else 0.0
        }

    def advantages(self, batch: Batch) -> Tensor:
        apart = distance(batch)
        mean = apart.sum() / batch.trained.sum().clamp(min=1)
        told = torch.where(batch.trained, self.strength * (mean - apart), 0.0)
        return told + self.reward * self.of.advantages(batch) if self.reward else told


def distance(batch: Batch) -> Tensor:
    """log sampler / teacher, [row token]; 0 off the trained tokens.

    The sampler is the policy as the engine had it, but where ``old_logprobs`` are filled.
    """
    if batch.teacher_logprobs is None:
        raise ValueError("learning from a teacher needs teacher_logprobs filled")
    said = batch.engine_logprobs if batch.old_logprobs is None else batch.old_logprobs
    return torch.where(batch.trained, kl(said, batch.teacher_logprobs, "k1"), 0.0)
