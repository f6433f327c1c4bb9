"""Graders that several envs share, and rewards by name: what grades a stage's training groups,
where that is not their env alone. Evaluations always ask the env.

``file.py:Name`` names a reward from outside the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from upslope.types import Engine, Env, Problem, Reward, Trajectory

if TYPE_CHECKING:
    from upslope.chat import Chat
    from upslope.models.policy import Policy

REWARDS = {"env": "upslope.rewards.own:Own"}


class Grades(Protocol):
    """What a group's plays earn."""

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """One reward for each trajectory, in order, as ``Env.rewards`` gives them."""


@runtime_checkable
class Lasts(Protocol):
    """Beside ``Grades``: one that has something to make before it grades, or to end."""

    async def begin(self, folder: Path) -> None:
        """Before a stage's first step, and again when it is resumed; ``folder`` is the run's for
        what this stage's reward keeps. Until then (in the self-check) it grades as it can. The
        engine has the weights of the stage's start when it is first awaited."""

    async def close(self) -> None:
        """After the last step, or when the run ends early."""


@dataclass(frozen=True)
class Host:
    """What a stage has that its reward may need.

    ``spend``: FLOPs and tokens of a pass that grades, to the ledger. ``say``: a line for the user.
    """

    env: Env
    policy: Policy
    chat: Chat
    engine: Engine
    seed: int
    spend: Callable[[float, int], None]
    say: Callable[[str], None]


@runtime_checkable
class OpensReward(Protocol):
    """A reward's settings. Implementations are frozen dataclasses of them."""

    def open(self, host: Host) -> Grades:
        """What grades for one stage; UserError where it cannot, before anything is spent."""
