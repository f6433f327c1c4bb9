"""Preference as reward: the mean chance that a reply is preferred to replies of the stage's start.

    mean over references of sigmoid(reward - reference's reward)

Between 0 and 1 and around 1/2 at the start, so a reward model that runs away earns nothing more.
arXiv:2502.18770.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.nested import asked
from upslope.rewards.own import Own
from upslope.rewards.references import References
from upslope.rewards.shaped import shaped
from upslope.types import Problem, Reward, Trajectory

NONE = "no reference reply to this problem could be graded"


@dataclass(frozen=True)
class Par:
    """``of``: the reward, a table with a ``type``. ``replies``: references for each train problem;
    ``problems``: the most that they are sampled for. Part: ``raw``, what it was before.

    The self-check, which comes before the references, compares with 0.
    """

    of: Annotated[OpensReward, REWARDS] = Own()
    replies: int = 4
    problems: int = 2000

    def __post_init__(self) -> None:
        if self.replies < 1 or self.problems < 1:
            raise ValueError("replies and problems must be at least 1")

    def open(self, host: Host) -> Grades:
        """Without references; UserError where there would be too many."""
        of = self.of.open(host)
        known = References.opened(host, of, self.replies, self.problems, "par")
        return Preferred({"of": of}, known)


@dataclass(frozen=True)
class Preferred:
    """An opened reward, and what it gave the references."""

    asks: Mapping[str, Grades]
    known: References

    @property
    def earns(self) -> tuple[float, float]:
        return 0.0, 1.0

    async def begin(self, folder: Path) -> None:
        """Sample the references."""
        await self.known.begin(folder)

    async def close(self) -> None:
        """Nothing to end."""

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Each against the problem's references."""
        graded = await asked(self.asks["of"], problem, trajectories)
        against = self.known.to(problem)
        if against is None:
            return [Reward(0.0, valid=False, reason=NONE) for _ in graded]
        return [r if not r.valid else shaped(r, preferred(r.total, against)) for r in graded]


def preferred(score: float, against: Sequence[float]) -> float:
    """Mean of sigmoid(score - other)."""
    return float(np.mean(np.exp(-np.logaddexp(0.0, np.asarray(against) - score))))
