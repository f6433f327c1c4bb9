"""Which tokens of a policy gradient are held back, so that entropy lasts. Pure, [row token].

The entropy bonus is ``losses.Entropy``; clip-higher is ``clip_high``; which problems are played is
``curriculum.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from upslope.losses import Ids, Mask, PerToken

Hold = Literal["nothing", "clip_cov", "kl_cov", "low_entropy"]


@dataclass(frozen=True)
class Explore:
    """``hold``: which tokens do not learn freely. ``share`` is of all trained tokens.

    "clip_cov": this share, drawn from tokens whose covariance of log-probability and advantage is
    between ``low`` and ``high``, has no policy gradient; "kl_cov": the share of each group with the
    highest covariance pays ``coefficient`` times |log policy / old policy|, which acts where a
    rollout batch has several updates (both arXiv:2505.22617). Both hold one token at least, of the
    batch and of each group, where any qualifies. "low_entropy": only the share of
    highest entropy has a policy gradient; 0.2 in arXiv:2506.01939.
    """

    hold: Hold = "nothing"
    share: float = 0.0002
    low: float = 1.0
    high: float = 5.0
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"explore.share must be above 0 and at most 1, got {self.share}")
        if self.low >= self.high or self.coefficient < 0:
            raise ValueError(
                f"explore.low={self.low:g} must be below explore.high={self.high:g}, and "
                f"explore.coefficient={self.coefficient:g} not negative"
            )


def covariance(logprobs: PerToken, advantages: PerToken, trained: Mask) -> PerToken:
    """(log p - mean log p)(A - mean A), means over the trained tokens; 0 off them."""
    away = [torch.where(trained, x - x[trained].mean(), 0.0) for x in (logprobs, advantages)]
    return away[0] * away[1]


def clip_cov(
    tokens: Int[Tensor, "row token"],
    logprobs: PerToken,
    advantages: PerToken,
    trained: Mask,
    how: Explore,
) -> Mask:
    """The tokens that Clip-Cov holds: at least one where any is within the bounds.

    Which of those within is drawn by a hash of the token, its place and its log-probability, so
    that no order of rows changes the draw.
    """
    cov = covariance(logprobs, advantages, trained)
    within = trained & (cov > how.low) & (cov < how.high)
    lot = logprobs.float().contiguous().view(torch.int32).long() * 2654435761 + tokens * 40503
    lot = (lot + torch.arange(tokens.shape[1]) * 97) * 0x9E3779B1 % 2147483647
    return within & (lot <= _smallest(lot[within], how.share, trained))


def kl_cov(
    logprobs: PerToken, advantages: PerToken, trained: Mask, group: Ids, how: Explore
) -> Mask:
    """The tokens that KL-Cov holds near the old policy: in each group the highest, if above 0.

    At least one in a group that has any above 0: in small groups that is more than the share.
    """
    held = torch.zeros_like(trained)
    for each in torch.unique(group):
        own = trained & (group == each)[:, None]
        cov = covariance(logprobs, advantages, own)
        above = own & (cov > 0)
        held |= above & (-cov <= _smallest(-cov[above], how.share, own))
    return held


def low_entropy(entropy: PerToken, trained: Mask, share: float) -> Mask:
    """All trained tokens but the share of highest entropy."""
    return trained & (-entropy > _smallest(-entropy[trained], share, trained))


def _smallest(values: Tensor, share: float, trained: Mask) -> Tensor:
    """The largest of the so many smallest values that are a share of the trained tokens."""
    count = min(max(int(share * int(trained.sum())), 1), len(values))
    if not count:
        return values.new_zeros(())
    return values.sort().values[count - 1]
