"""Losses over pairs of trajectories, and over labelled ones. Pure functions of one value each.

``delta`` is how much more a pair's chosen side is preferred by the policy than by the reference:
(log pi - log ref of the chosen) - (the same of the rejected), summed or averaged over tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Values = Float[Tensor, " n"]
Ids = Int[Tensor, " n"]
Valid = Bool[Tensor, " n"]
Form = Literal["sigmoid", "hinge", "robust"]
Score = Literal["sum", "mean"]


def sides(rewards: Values, group: Ids, valid: Valid) -> Values:
    """Which side of its group's pairs a trajectory is on, and its share of it.

    1 / n for each of the n valid members with the highest reward, -1 / m for each of the m with the
    lowest, 0 for the others. A group of equal rewards has no sides.
    """
    ids, member = torch.unique(group, return_inverse=True)
    high = _extreme(torch.where(valid, rewards, -torch.inf), member, len(ids), "amax")
    low = _extreme(torch.where(valid, rewards, torch.inf), member, len(ids), "amin")
    apart = valid & (high > low)[member]
    best, worst = apart & (rewards == high[member]), apart & (rewards == low[member])
    zeros = rewards.new_zeros(len(ids))
    many = zeros.index_add(0, member, best.to(rewards.dtype)).clamp(min=1)
    few = zeros.index_add(0, member, worst.to(rewards.dtype)).clamp(min=1)
    return best / many[member] - worst / few[member]


def dpo(delta: Values, beta: float, form: Form = "sigmoid", smoothing: float = 0.0) -> Values:
    """-log sigmoid(beta delta) (DPO, arXiv:2305.18290), or a hinge on it (arXiv:2305.10425).

    ``smoothing``: the share of labels taken to be wrong, conservatively ("sigmoid": the expected
    loss) or without bias ("robust", arXiv:2403.00409).
    """
    right, wrong = -F.logsigmoid(beta * delta), -F.logsigmoid(-beta * delta)
    if form == "hinge":
        return torch.relu(1 - beta * delta)
    if form == "robust":
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    return (1 - smoothing) * right + smoothing * wrong


def ipo(delta: Values, beta: float) -> Values:
    """(delta - 1 / (2 beta))^2: a bounded preference. IPO, arXiv:2310.12036."""
    return (delta - 1 / (2 * beta)) ** 2


def simpo(chosen: Values, rejected: Values, beta: float, gamma: float) -> Values:
    """-log sigmoid(beta (chosen - rejected) - gamma) of mean log-probs. SimPO, arXiv:2405.14734."""
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def log_odds(chosen: Values, rejected: Values) -> Values:
    """log odds of one mean log-probability less those of another. ORPO, arXiv:2403.07691."""
    # A mean of exactly 0, certainty, would have infinite odds.
    high, low = chosen.clamp(max=-1e-6), rejected.clamp(max=-1e-6)
    return high - low - (torch.log(-torch.expm1(high)) - torch.log(-torch.expm1(low)))


def orpo(chosen: Values, rejected: Values, beta: float) -> Values:
    """Imitation of the chosen side, and -beta log sigmoid of the log odds. ORPO."""
    return -chosen - beta * F.logsigmoid(log_odds(chosen, rejected))


def kto(log_ratio: Values, desirable: Valid, baseline: Values, beta: float) -> Values:
    """1 - sigmoid(+-beta (log_ratio - baseline)), + where desirable. KTO, arXiv:2402.01306."""
    above = beta * (log_ratio - baseline)
    return 1 - torch.sigmoid(torch.where(desirable, above, -above))


def _extreme(
    values: Values, member: Ids, groups: int, how: Literal["amax", "amin"]
) -> Float[Tensor, " group"]:
    start = -torch.inf if how == "amax" else torch.inf
    return values.new_full((groups,), start).scatter_reduce(0, member, values, how)
