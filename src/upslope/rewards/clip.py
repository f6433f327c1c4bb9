"""A reward within bounds: what is beyond them is cut, or taken for a failure of the grader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.nested import asked
from upslope.rewards.own import Own
from upslope.rewards.shaped import shaped
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Clip:
    """``of``: the reward, a table with a ``type``. ``beyond`` "cut" takes the nearer bound and says
    what it was in the part ``raw``; "invalid" leaves the play out, with the reason."""

    low: float
    high: float
    of: Annotated[OpensReward, REWARDS] = Own()
    beyond: Literal["cut", "invalid"] = "cut"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")

    def open(self, host: Host) -> Grades:
        """Within its bounds."""
        return Bounded(self, {"of": self.of.open(host)})


@dataclass(frozen=True)
class Bounded:
    """An opened reward, and its bounds."""

    settings: Clip
    asks: Mapping[str, Grades]

    @property
    def earns(self) -> tuple[float, float]:
        return self.settings.low, self.settings.high

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Each one's; what is still beyond the bounds is refused by whoever asked for it."""
        graded = await asked(self.asks["of"], problem, trajectories)
        if self.settings.beyond == "invalid":
            return graded
        low, high = self.earns
        return [
            r if not r.valid or low <= r.total <= high else shaped(r, min(max(r.total, low), high))
            for r in graded
        ]
