"""The log of the chance that a reply is preferred to a good one of the stage's start.

    log sigmoid(reward - reference)

Nearly the reward where that is low, and nearly 0 where it is high: what is bad is mended before
what is good is bettered. A sum of several, as a mix makes it, asks for all of them.
arXiv:2402.00742.
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
from upslope.rewards.par import NONE
from upslope.rewards.references import References
from upslope.rewards.shaped import shaped
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class LogSigmoid:
    """``of``: the reward, a table with a ``type``. Its reference is the number ``reference``, or
    with ``replies`` above 0 the ``quantile`` of what so many replies to each train problem earned
    at the stage's start; ``problems``: the most that they are sampled for. Part: ``raw``."""

    of: Annotated[OpensReward, REWARDS] = Own()
    reference: float = 0.0
    replies: int = 0
    quantile: float = 0.85
    problems: int = 2000

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be between 0 and 1, got {self.quantile:g}")
        if self.replies < 0 or (self.replies and self.reference):
            raise ValueError("replies are sampled in place of a reference: set one of them")

    def open(self, host: Host) -> Grades:
        """Without references; UserError where there would be too many."""
        of = self.of.open(host)
        known = References.opened(host, of, self.replies, self.problems, "log_sigmoid")
        return Bettered(self, {"of": of}, known)


@dataclass(frozen=True)
class Bettered:
    """An opened reward, and what it gave the references."""

    settings: LogSigmoid
    asks: Mapping[str, Grades]
    known: References

    async def begin(self, folder: Path) -> None:
        """Sample the references, if any."""
        await self.known.begin(folder)

    async def close(self) -> None:
        """Nothing to end."""

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Each against the problem's reference."""
        graded = await asked(self.asks["of"], problem, trajectories)
        against = self.known.to(problem)
        if against is None:
            return [Reward(0.0, valid=False, reason=NONE) for _ in graded]
        level = self.settings.reference + float(np.quantile(against, self.settings.quantile))
        return [r if not r.valid else shaped(r, logged(r.total - level)) for r in graded]


def logged(x: float) -> float:
    """log sigmoid(x)."""
    return float(-np.logaddexp(0.0, -x))
