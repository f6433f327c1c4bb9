"""What the policy of a stage's start earns on each problem, for rewards that compare with it.

Sampled once, before the first step, and kept in the run's folder: a resumed run has other weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from upslope.files import replace_file
from upslope.rewards import Grades, Host
from upslope.rewards.nested import asked, together
from upslope.types import Problem, UserError

FILE = "references.json"


@dataclass(frozen=True)
class References:
    """``replies`` to each of the train problems, of which there may be ``most``."""

    host: Host
    of: Grades
    replies: int
    scores: dict[str, list[float]] = field(default_factory=dict)

    @staticmethod
    def opened(host: Host, of: Grades, replies: int, most: int, key: str) -> References:
        """With nothing sampled; UserError where that would be for too many problems."""
        if replies and (count := len(host.env.problems("train"))) > most:
            raise UserError(
                f"reward {key} samples {replies} replies to each of the env's {count} train "
                f"problems before the first step, and reward.problems={most} bounds them: raise "
                "it, or give the env fewer"
            )
        return References(host, of, replies)

    async def begin(self, folder: Path) -> None:
        """Sample and grade them, or read what the stage's start has kept."""
        if not self.replies:
            return
        file = folder / FILE
        if file.is_file():
            self.scores.update(json.loads(file.read_text(encoding="utf-8")))
            return
        problems = self.host.env.problems("train")
        found = await together([self._earned(problem) for problem in problems])
        self.scores.update(zip((p.id for p in problems), found, strict=True))
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(self.scores).encode())

    async def _earned(self, problem: Problem) -> list[float]:
        plays = (await self.host.play(problem, self.replies)).trajectories
        return [r.total for r in await asked(self.of, problem, plays) if r.valid]

    def to(self, problem: Problem) -> Sequence[float] | None:
        """What the references of a problem earned: 0 before there are any, None where none could be
        graded."""
        if not self.scores:
            return (0.0,)
        return self.scores.get(problem.id) or None
