"""A reward whose total is another number, as those that shape one give it. Not a reward itself."""

from __future__ import annotations

from dataclasses import replace

from upslope.rewards.merged import noted
from upslope.types import Reward


def shaped(reward: Reward, total: float) -> Reward:
    """A valid one with this total; the part ``raw`` is what it was.

    What was earned at tokens is of another scale then, and left out.
    """
    return replace(noted(reward, {"raw": reward.total}), total=total, at=())


def moved(reward: Reward, by: float) -> Reward:
    """The same of one that was shifted: ``by`` is added at its end."""
    return replace(shaped(reward, reward.total + by), at=reward.at)
