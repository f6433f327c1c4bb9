"""Several rewards of the same thing as one: their mean, the worst of them, or the mean less what
they disagree by. A proxy that is wrong alone is then not followed. arXiv:2310.02743.

Members should have one scale, as reward models have whose scores are normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.merged import failed, merged, noted
from upslope.rewards.nested import all_asked
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Ensemble:
    """``members``: a reward for each name. ``how``: their mean; the "worst" (WCO); the mean less
    ``k`` times their variance (UWO) or their standard deviation, both of the population.

    Parts: each member's, and ``disagreement``, that standard deviation. Invalid where a member is.
    Process rewards are those of the mean or of the worst member; the other two have none.
    """

    members: Mapping[str, Annotated[OpensReward, REWARDS]]
    how: Literal["mean", "worst", "variance", "deviation"] = "mean"
    k: float = 0.5

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError("members must be at least two, or there is nothing to disagree")
        if "disagreement" in self.members:
            raise ValueError("no member may be called disagreement, which is what they differ by")
        if not self.k >= 0:
            raise ValueError(f"k must be at least 0, got {self.k:g}")

    def open(self, host: Host) -> Grades:
        """All members, opened."""
        return Council(self, {name: one.open(host) for name, one in self.members.items()})


@dataclass(frozen=True)
class Council:
    """Opened members."""

    settings: Ensemble
    asks: Mapping[str, Grades]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Every member's for every play, as one."""
        each = await all_asked(self.asks, problem, trajectories)
        return [self.one(named) for named in each]

    def one(self, named: Mapping[str, Reward]) -> Reward:
        """What the members say of one play."""
        equal = dict.fromkeys(named, 1 / len(named))
        if failed(named, equal):
            return merged(named, equal)
        totals = np.array([r.total for r in named.values()])
        spread, k = float(totals.std()), self.settings.k
        match self.settings.how:
            case "mean":
                made = merged(named, equal)
            case "worst":
                made = merged(named, {list(named)[int(totals.argmin())]: 1.0})
            case "variance":
                made = merged(named, {}, float(totals.mean()) - k * spread**2)
            case "deviation":
                made = merged(named, {}, float(totals.mean()) - k * spread)
        return noted(made, {"disagreement": spread})
