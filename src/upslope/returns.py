"""What tokens earn and what comes after them. Pure functions, [row token].

A trajectory's rows follow each other as ``segment`` has them; tokens that are not trained earn
nothing and take no time.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from upslope.losses import Ids, Mask, PerToken


def at_end(
    values: Float[Tensor, " trajectory"],
    trained: Mask,
    trajectory: Ids,
    segment: Int[Tensor, " row"],
) -> PerToken:
    """One value a trajectory on its last trained token; nowhere where it has none."""
    ids, member = torch.unique(trajectory, return_inverse=True)
    place = torch.where(trained.any(1), segment, -1)
    last = place.new_full((len(ids),), -1).scatter_reduce(0, member, place, "amax")
    ends = (place >= 0) & (place == last[member])
    column = trained.shape[1] - 1 - trained.int().flip(1).argmax(1)
    out = values.new_zeros(trained.shape)
    out[ends.nonzero()[:, 0], column[ends]] = values[member[ends]]
    return out


def to_go(
    rewards: PerToken,
    trained: Mask,
    trajectory: Ids,
    segment: Int[Tensor, " row"],
    discount: float = 1.0,
) -> PerToken:
    """The discounted sum of a trajectory's rewards from each trained token on; 0 off them."""
    ids, member = torch.unique(trajectory, return_inverse=True)
    ahead, out = rewards.new_zeros(len(ids)), torch.zeros_like(rewards)
    for number in torch.unique(segment).flip(0):
        rows = (segment == number).nonzero()[:, 0]
        after = ahead[member[rows]]
        for t in reversed(range(trained.shape[1])):
            counts = trained[rows, t]
            after = torch.where(counts, rewards[rows, t] + discount * after, after)
            out[rows, t] = torch.where(counts, after, 0.0)
        ahead[member[rows]] = after
    return out


def whitened(values: PerToken, trained: Mask, eps: float = 1e-6) -> PerToken:
    """(value - mean) / (std + eps) over the trained tokens; 0 off them, and where all are equal."""
    chosen = values[trained]
    if len(chosen) < 2:
        return torch.zeros_like(values)
    # Counted from the lowest, so that equal values give exactly 0.
    above = chosen - chosen.min()
    away = torch.where(trained, values - chosen.min() - above.mean(), 0.0)
    std = above.std(correction=1)
    return away / (std + eps)
