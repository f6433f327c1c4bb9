"""A reward less the mean of what was earned lately, for algorithms without a baseline of their own.

One that compares the members of a group takes the same off all of them, and learns nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.rewards.nested import asked
from upslope.rewards.own import Own
from upslope.rewards.shaped import moved
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Centred:
    """``of``: the reward, a table with a ``type``. ``window``: the valid plays before a group whose
    mean is taken off; a resumed run begins with none. Part: ``raw``, what it was before."""

    of: Annotated[OpensReward, REWARDS] = Own()
    window: int = 1024

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    def open(self, host: Host) -> Grades:
        """With nothing seen."""
        return Centres({"of": self.of.open(host)}, deque(maxlen=self.window))


@dataclass(frozen=True)
class Centres:
    """An opened reward, and what was earned lately."""

    asks: Mapping[str, Grades]
    seen: deque[float]
    compares: bool = True

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Less the mean of the window; the group joins it afterwards."""
        graded = await asked(self.asks["of"], problem, trajectories)
        mean = float(np.mean(self.seen)) if self.seen else 0.0
        self.seen.extend(r.total for r in graded if r.valid)
        return [moved(r, -mean) if r.valid else r for r in graded]
