"""What grades a stage's training groups, opened from its settings and audited, with its work in the
ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from upslope.audit.auditor import Auditor
from upslope.audit.settings import Alarms
from upslope.files import explained, remove_folder
from upslope.grading import check
from upslope.ledger import Ledger
from upslope.rewards import Grades, Host, Lasts, OpensReward, Recalls, Says
from upslope.rewards.nested import ranged, within
from upslope.rollout import Player
from upslope.types import Group, Metrics, Problem, Reward, Trajectory


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
        given = ranged(self.grades, given)
        check(type(self.grades).__name__ + ".rewards", problem, trajectories, given)
        if not self.audit.asks:
            return await self.audit.look(problem, trajectories, given)
        with self.ledger.time("reward"):
            return await self.audit.look(problem, trajectories, given)

    async def begin(self, folder: Path, earlier: Sequence[Path] = (), *, resumed: bool) -> None:
        """Before a stage's first step; what is asked by another reward before that one.

        ``earlier``: the folders of stages before it. What a stage made that was killed before its
        first checkpoint is made again, or the ledger would lack its work.
        """
        if not resumed and folder.is_dir():
            with explained(folder):
                remove_folder(folder)
        for name, one in within(self.grades):
            if isinstance(one, Recalls):
                one.recall([before / name for before in earlier])
            if isinstance(one, Lasts):
                with self.ledger.time("reward"):
                    await one.begin(folder / name)

    async def close(self) -> None:
        """After its last: all of them, also where one fails."""
        async with AsyncExitStack() as stack:
            for _, one in within(self.grades):
                if isinstance(one, Lasts):
                    stack.push_async_callback(one.close)

    def metrics(self) -> Metrics:
        """What they count."""
        said = Counter[str]()
        for _, one in within(self.grades):
            if isinstance(one, Says):
                said.update(one.metrics())
        return dict(said)


def playing(
    player: Player, seed: int, spend: Callable[[float, int], None]
) -> Callable[[Problem, int], Awaitable[Group]]:
    """So many plays of a problem, to compare others with: sampling them is the reward's work."""

    async def play(problem: Problem, size: int) -> Group:
        group = await player.group(problem, 0, size, seed, "reference")
        for usage in (t.usage for t in group.trajectories):
            flops = usage.prefill_flops + usage.decode_flops
            spend(flops, usage.computed + usage.decoded)
        return group

    return play
