"""What stale tokens are weighed by: how policy / engine becomes a weight, [row token]. Pure.

The bounds are ``losses.bounded``; which of all this a run does, ``rollout.importance`` says.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from upslope import losses
from upslope.batch import Batch
from upslope.losses import Ids, Mask, PerToken
from upslope.settings import Rollout

Level = Literal["token", "sequence", "geometric"]


def spans(how: Rollout) -> bool:
    """Whether a token's weight is of its whole trajectory."""
    return how.importance == "opsm" or how.importance_level != "token"


def weights(batch: Batch, now: PerToken, how: Rollout) -> tuple[PerToken, Mask]:
    """Each token's weight for the policy ``now``, and whether its ratio was out of bounds."""
    engine = torch.where(batch.trained, batch.engine_logprobs, now)
    ids = batch.trained, batch.trajectory
    if how.importance == "opsm":
        assert batch.advantages is not None
        mean = weighed(now, engine, *ids, "geometric")
        kept = unlikely(mean, batch.advantages, how.importance_floor)
        return kept, kept == 0
    raw = weighed(now, engine, *ids, how.importance_level)
    bounded = losses.bounded(raw, how.importance, how.importance_floor, how.importance_cap)
    return bounded, bounded != raw


def weighed(
    now: PerToken, engine: PerToken, trained: Mask, trajectory: Ids, level: Level
) -> PerToken:
    """now / engine: a token's own, its trajectory's (the product over its tokens: while
    it is not cut the gradient has no bias) or the geometric mean of that (GSPO's ratio).

    Log-ratios are clamped to +-20.
    """
    apart = torch.where(trained, now - engine, 0.0)
    if level == "token":
        return apart.clamp(-20, 20).exp()
    ids, member = torch.unique(trajectory, return_inverse=True)
    total = apart.new_zeros(len(ids)).index_add(0, member, apart.sum(1))
    if level == "geometric":
        count = apart.new_zeros(len(ids)).index_add(0, member, trained.sum(1).to(apart.dtype))
        total = total / count.clamp(min=1)
    each: Tensor = total.clamp(-20, 20).exp()[member][:, None]
    return each.expand_as(apart)


def unlikely(geometric: PerToken, advantages: PerToken, floor: float) -> PerToken:
    """0 for tokens of negative advantage in a trajectory whose ``weighed`` mean is below ``floor``.

    Off-policy sequence masking (DeepSeek-V3.2, arXiv:2512.02556): mean log(engine / policy) above
    delta, with ``floor`` = exp(-delta). All others count 1: what the policy would hardly say any
    more teaches it nothing by being wrong.
    """
    dropped = (geometric < floor) & (advantages < 0)
    return (~dropped).to(geometric.dtype)
