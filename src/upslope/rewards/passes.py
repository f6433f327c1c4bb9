"""The mean of several passes of one reward, asked at once: a judge that draws says more in four.

Each pass has a seed of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.merged import merged, noted
from upslope.rewards.nested import all_asked
from upslope.rewards.own import Own
from upslope.seeds import seed_of
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Passes:
    """``of``: the reward, a table with a ``type``; ``k``: how often each play is graded. Its parts
    are their means, and ``spread`` is the standard deviation over passes, of the population.

    A pass that failed is left out; where all have, the reward is invalid.
    """

    of: Annotated[OpensReward, REWARDS] = Own()
    k: int = 4

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ValueError(f"k must be at least 2, got {self.k}: one pass is the reward itself")

    def open(self, host: Host) -> Grades:
        """Each pass, opened."""
        seeds = {f"pass{i}": seed_of(host.seed, "pass", i) for i in range(self.k)}
        return Repeats({n: self.of.open(replace(host, seed=s)) for n, s in seeds.items()})


@dataclass(frozen=True)
class Repeats:
    """Opened passes."""

    asks: Mapping[str, Grades]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The mean over each play's passes."""
        return [mean(each) for each in await all_asked(self.asks, problem, trajectories)]


def mean(named: Mapping[str, Reward]) -> Reward:
    """Of the passes that did not fail."""
    known = {name: r for name, r in named.items() if r.valid}
    whole = merged(known or named, dict.fromkeys(known or named, 1 / len(known or named)))
    if not known:
        return whole
    parts = dict.fromkeys(own for r in known.values() for own in r.parts)
    means = {own: float(np.mean([r.parts.get(own, 0.0) for r in known.values()])) for own in parts}
    spread = float(np.std([r.total for r in known.values()]))
    return noted(replace(whole, parts=means), {"spread": spread})
