"""A source of both kinds: a share of each step from recorded plays, the rest from rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from upslope.sources import Recorded, Rollouts
from upslope.types import Group, Metrics


class Mixed:
    """From offline to online, after RLPD (arXiv:2302.02948).

    ``shares``: of the first step and of the last of ``over`` steps, in a straight line, and as the
    last from there on. What rounding leaves is owed to the next step.
    """

    def __init__(
        self, rollouts: Rollouts, recorded: Recorded, shares: tuple[float, float], over: int
    ) -> None:
        self.rollouts, self.recorded, self.shares, self.over = rollouts, recorded, shares, over
        self.sync = rollouts.sync
        self.steps, self.owed, self.old = 0, 0.0, 0

    async def groups(self, n: int, version: int, keep: Callable[[Group], bool]) -> list[Group]:
        """``n`` groups, the recorded ones last; fewer where no more rollouts were found."""
        first, last = self.shares
        passed = min(1.0, self.steps / self.over) if self.over else 0.0
        self.owed += n * (first + (last - first) * passed)
        self.old = min(n, int(self.owed + 1e-9))
        self.owed, self.steps = self.owed - self.old, self.steps + 1
        new = await self.rollouts.groups(n - self.old, version, keep) if self.old < n else []
        old = await self.recorded.groups(self.old, version, keep) if self.old else []
        return new + old if new or self.old == n else []

    def observe(self, groups: Sequence[Group]) -> None:
        """Nothing more: a curriculum learns from every group as it is finished."""

    def metrics(self) -> Metrics:
        """The rollouts', and how many of the step's groups were recorded."""
        return self.rollouts.metrics() | {"groups/recorded": float(self.old)}

    def state(self) -> Mapping[str, Any]:
        """Both sources', and where the schedule is."""
        return {
            "rollouts": dict(self.rollouts.state()),
            "recorded": dict(self.recorded.state()),
            "steps": self.steps,
            "owed": self.owed,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue both."""
        self.rollouts.load_state(state["rollouts"])
        self.recorded.load_state(state["recorded"])
        self.steps, self.owed = int(state["steps"]), float(state["owed"])

    async def close(self) -> None:
        """End what is underway."""
        await self.rollouts.close()
