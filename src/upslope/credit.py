"""Rewards of turns to advantages of turns. Pure functions of one value a turn, and its place.

A turn's place is its trajectory's id and its number there. Order and gaps do not matter.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Values = Float[Tensor, " turn"]
Ids = Int[Tensor, " turn"]


def to_go(rewards: Values, trajectory: Ids, number: Ids, discount: float = 1.0) -> Values:
    """What a trajectory earns from a turn on, discounted by turns."""
    return turn_gae(rewards, torch.zeros_like(rewards), trajectory, number, discount, 1.0)[0]


def turn_gae(
    rewards: Values,
    values: Values,
    trajectory: Ids,
    number: Ids,
    discount: float = 1.0,
    trace: float = 1.0,
) -> tuple[Values, Values]:
    """Generalised advantage estimation with turns as its actions (arXiv:1506.02438); and returns.

    ``values``: what is expected where each turn begins, before anything is said. After the last
    turn nothing is. A = delta + discount * trace * next A; the returns are A + value.
    """
    place, shape = _places(trajectory, number)
    earned, expected = (_table(of, place, shape) for of in (rewards, values))
    present = _table(torch.ones_like(rewards), place, shape) > 0
    ahead, after, out = earned.new_zeros(shape[0]), earned.new_zeros(shape[0]), earned.clone()
    for k in reversed(range(shape[1])):
        here: Bool[Tensor, " trajectory"] = present[:, k]
        delta = earned[:, k] + discount * after - expected[:, k]
        ahead = torch.where(here, delta + discount * trace * ahead, ahead)
        after = torch.where(here, expected[:, k], after)
        out[:, k] = ahead
    advantages = out.flatten()[place]
    return advantages, advantages + values


def before(rewards: Values, trajectory: Ids, number: Ids) -> Values:
    """What a trajectory had earned when a turn began; exactly 0 for its first."""
    place, shape = _places(trajectory, number)
    earned = _table(rewards, place, shape).cumsum(1)
    return torch.nn.functional.pad(earned, (1, 0))[:, :-1].flatten()[place]


def _places(trajectory: Ids, number: Ids) -> tuple[Ids, tuple[int, int]]:
    """Each turn's place in a table of trajectories by turns, flattened, and its shape."""
    ids, member = torch.unique(trajectory, return_inverse=True)
    longest = int(number.max()) + 1 if len(number) else 0
    return member * longest + number, (len(ids), longest)


def _table(values: Values, place: Ids, shape: tuple[int, int]) -> Float[Tensor, "trajectory turn"]:
    return values.new_zeros(shape[0] * shape[1]).index_add(0, place, values).view(shape)
