"""What grades a stage's training groups, opened from its settings and audited, with its work in the
ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from upslope.audit.auditor import Auditor
from upslope.audit.settings import Alarms
from upslope.grading import check
from upslope.ledger import Ledger
from upslope.rewards import Grades, Host, Lasts, OpensReward
from upslope.types import Problem, Reward, Trajectory


@dataclass(frozen=True)
class Rewarding:
    """An opened reward. ``host``: what it was opened with; an env that grades alone spends nothing
    that the ledger counts, but for what is audited."""

    grades: Grades
    host: Host
    ledger: Ledger
    audit: Auditor

    @staticmethod
    def of(
        settings: OpensReward, host: Host, ledger: Ledger, alarms: Alarms, stage: str
    ) -> Rewarding:
        """Opened; UserError where it cannot be."""
        grades = settings.open(host)
        audit = Auditor(alarms, host.env, stage, grades is host.env, host.seed, host.say)
        return Rewarding(grades, host, ledger, audit)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The reward's, on the ledger's clock where it is not the env alone that grades."""
        if self.grades is self.host.env:
            given = await self.grades.rewards(problem, trajectories)
        else:
            with self.ledger.time("reward"):
                given = await self.grades.rewards(problem, trajectories)
        check(type(self.grades).__name__ + ".rewards", problem, trajectories, given)
        if not self.audit.asks:
            return await self.audit.look(problem, trajectories, given)
        with self.ledger.time("reward"):
            return await self.audit.look(problem, trajectories, given)

    async def begin(self, folder: Path) -> None:
        """Before a stage's first step."""
        if isinstance(self.grades, Lasts):
            await self.grades.begin(folder)

    async def close(self) -> None:
        """After its last."""
        if isinstance(self.grades, Lasts):
            await self.grades.close()
