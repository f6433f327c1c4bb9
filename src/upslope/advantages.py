"""Rewards to advantages. Pure functions of one value a trajectory, its group id and its validity.

Invalid members get 0 and do not vote. A group with fewer than two valid members, or with equal
rewards, has nothing to compare and gets exactly 0 (verl gives a lone member its reward instead).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import comb
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Values = Float[Tensor, " n"]
Ids = Int[Tensor, " n"]
Valid = Bool[Tensor, " n"]
Scale = Literal["group", "batch", "none"]


def centred(rewards: Values, group: Ids, valid: Valid) -> Values:
    """r - mean of its group. Dr. GRPO, arXiv:2503.20783."""
    # Counted from the group's lowest: equal rewards give exactly 0, and near-equal ones keep
    # differences that a rounded mean would drown.
    above = torch.where(valid, rewards - _lowest(rewards, group, valid), 0.0)
    mean, _, member = _means(above, group, valid)
    return torch.where(valid, above - mean[member], 0.0)


def standardised(rewards: Values, group: Ids, valid: Valid, eps: float = 1e-6) -> Values:
    """(r - mean) / (std + eps), std with n - 1 in two passes. GRPO, arXiv:2402.03300."""
    away = centred(rewards, group, valid)
    square, count, member = _means(away**2, group, valid)
    std = (square * count / (count - 1).clamp(min=1)).sqrt()
    return away / (std[member] + eps)


def leave_one_out(rewards: Values, group: Ids, valid: Valid) -> Values:
    """r - mean of the other members = n / (n - 1) (r - mean). RLOO, arXiv:2402.14740."""
    away = centred(rewards, group, valid)
    _, count, member = _means(rewards, group, valid)
    return away * (count / (count - 1).clamp(min=1))[member]


def batch_standardised(rewards: Values, group: Ids, valid: Valid, eps: float = 1e-6) -> Values:
    """(r - mean of its group) / std of all of these over the batch. ScaleRL, arXiv:2510.13786."""
    away = centred(rewards, group, valid)
    chosen = away[valid]
    std = chosen.std(correction=1) if len(chosen) > 1 else chosen.new_zeros(())
    return away / (std + eps)


def scaled(how: Scale, rewards: Values, group: Ids, valid: Valid) -> Values:
    """r - mean of its group, over the group's std, the batch's, or as it is."""
    scales = {"group": standardised, "batch": batch_standardised, "none": centred}
    return scales[how](rewards, group, valid)


def mixed(rewards: Values, group: Ids, valid: Valid) -> Valid:
    """Whether the valid rewards of each one's group differ, without which there is no signal."""
    apart = centred(rewards, group, valid) != 0
    return torch.isin(group, group[apart])


@dataclass(frozen=True)
class Overlong:
    """What is done about replies that are too long. ``limit`` 0 leaves their reward as it is.

    Over the last ``cache`` tokens before ``limit`` up to 1 is taken off the reward, beyond it 1
    (soft punishment, DAPO, arXiv:2503.14476). ``mask``: truncated trajectories leave the loss and
    its means, and still vote in their group.
    """

    limit: int = 0
    cache: int = 0
    mask: bool = False

    def __post_init__(self) -> None:
        if not (self.limit == self.cache == 0 or 0 < self.cache <= self.limit):
            raise ValueError(
                f"overlong.cache={self.cache} must lie between 1 and overlong.limit={self.limit}, "
                "or both be 0"
            )

    def penalty(self, length: Values) -> Values:
        """What is taken off the reward of a trajectory of so many sampled tokens."""
        if not self.limit:
            return torch.zeros_like(length)
        return ((length - self.limit) / self.cache + 1).clamp(0, 1)


def best_of(
    rewards: Values, group: Ids, valid: Valid, k: int, how: Literal["group", "none"]
) -> Values:
    """The mean over subsets of k members with this one of their best reward, less that over all.

    ``how`` "group" divides by the std of the subsets' best. Pass@k training in its analytic form
    (arXiv:2508.10751); without the std n / k - 1 times an unbiased gradient of pass@k. A group of
    at most k valid members has nothing to compare.
    """
    out = torch.zeros_like(rewards)
    for each in torch.unique(group):
        rows = ((group == each) & valid).nonzero()[:, 0]
        if len(rows) > k:
            rows = rows[rewards[rows].argsort(stable=True)]
            found, std = _best_of(rewards[rows].double(), k)
            out[rows] = (found / std if how == "group" else found).to(out.dtype)
    return out


def less_baseline(rewards: Values, valid: Valid, baseline: float | Values) -> Values:
    """r - b for a baseline known before the rewards were. REINFORCE."""
    return torch.where(valid, rewards - baseline, 0.0)


def exponential(away: Values, beta: float, most: float) -> Values:
    """exp(A / beta), at most ``most``: the weights of AWR, arXiv:1910.00177."""
    # Bounded before the exponential, which would overflow.
    return (away / beta).clamp(max=math.log(most)).exp().clamp(max=most)


def among_best(top: int, rewards: Values, group: Ids, valid: Valid) -> Valid:
    """Whether fewer than ``top`` valid members of its group earned more than it did."""
    above = (group[:, None] == group) & valid & (rewards > rewards[:, None])
    return valid & (above.sum(1) < top)


def _best_of(rewards: Values, k: int) -> tuple[Values, Tensor]:
    """``best_of`` of one group from its lowest reward up, and the std of the subsets' best."""
    n, above = len(rewards), rewards - rewards[0]
    best = rewards.new_tensor([comb(j, k - 1) / comb(n, k) for j in range(n)])
    mean = (best * above).sum()
    with_it = comb(n - 1, k - 1)
    own = rewards.new_tensor([comb(j, k - 1) / with_it for j in range(n)])
    later = rewards.new_tensor(
        [comb(j - 1, k - 2) / with_it if j and k > 1 else 0 for j in range(n)]
    )
    beyond = (later * above).flip(0).cumsum(0).flip(0) - later * above
    std = (best * (above - mean) ** 2).sum().sqrt()
    away = own * above + beyond - mean
    # Where every subset has the same best, rounding is all that is left of both.
    silent = std <= 1e-12 * above[-1]
    return torch.where(silent, 0.0, away), torch.where(silent, 1.0, std)


def _means(values: Values, group: Ids, valid: Valid) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and count of the valid members of each group, and each trajectory's group index."""
    ids, member = torch.unique(group, return_inverse=True)
    zeros = values.new_zeros(len(ids))
    count = zeros.index_add(0, member, valid.to(values.dtype))
    total = zeros.index_add(0, member, torch.where(valid, values, 0.0))
    return total / count.clamp(min=1), count, member


def _lowest(rewards: Values, group: Ids, valid: Valid) -> Values:
    """The lowest valid reward of each one's group."""
    ids, member = torch.unique(group, return_inverse=True)
    known = torch.where(valid, rewards, torch.inf)
    low = rewards.new_full((len(ids),), torch.inf).scatter_reduce(0, member, known, "amin")
    return low[member]
