"""What grades a stage's training groups, opened from its settings, with its work in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from upslope.ledger import Ledger
from upslope.rewards import Grades, Host, Lasts, OpensReward
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Rewarding:
    """An opened reward. ``host``: what it was opened with; an env that grades alone spends nothing
    that the ledger counts."""

    grades: Grades
    host: Host
    ledger: Ledger

    @staticmethod
    def of(settings: OpensReward, host: Host, ledger: Ledger) -> Rewarding:
        """Opened; UserError where it cannot be."""
        return Rewarding(settings.open(host), host, ledger)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The reward's, on the ledger's clock where it is not the env alone that grades."""
        if self.grades is self.host.env:
            return await self.grades.rewards(problem, trajectories)
        with self.ledger.time("reward"):
            return await self.grades.rewards(problem, trajectories)

    async def begin(self, folder: Path) -> None:
        """Before a stage's first step."""
        if isinstance(self.grades, Lasts):
            await self.grades.begin(folder)

    async def close(self) -> None:
        """After its last."""
        if isinstance(self.grades, Lasts):
            await self.grades.close()
