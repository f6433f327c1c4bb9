"""Graders that several envs share, and rewards by name: what grades a stage's training groups,
where that is not their env alone. Evaluations always ask the env.

``file.py:Name`` names a reward from outside the package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from upslope.chat import Chat
    from upslope.models.policy import Policy
    from upslope.types import Engine, Env, Group, Metrics, Problem, Reward, Trajectory

REWARDS = {
    "env": "upslope.rewards.own:Own",
    "model": "upslope.rewards.model:Model",
    "learned": "upslope.rewards.learned:Learned",
    "judge": "upslope.rewards.judge:Judge",
    "mix": "upslope.rewards.mix:Mix",
    "ensemble": "upslope.rewards.ensemble:Ensemble",
    "cascade": "upslope.rewards.cascade:Cascade",
    "passes": "upslope.rewards.passes:Passes",
    "cached": "upslope.rewards.cached:Cached",
    "par": "upslope.rewards.par:Par",
    "log_sigmoid": "upslope.rewards.log_sigmoid:LogSigmoid",
    "clip": "upslope.rewards.clip:Clip",
    "centred": "upslope.rewards.centred:Centred",
    "length": "upslope.rewards.length:Length",
}


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


@runtime_checkable
class Recalls(Protocol):
    """Beside ``Lasts``: one that takes up what it has made in earlier stages."""

    def recall(self, folders: Sequence[Path]) -> None:
        """Before ``begin``: its folders in the stages before this one, the oldest first; one that
        was no part of a stage has none there."""


@runtime_checkable
class Nests(Protocol):
    """Beside ``Grades``: one that asks others, by name. Whoever holds it begins and ends those too,
    each before the one around it, and has them say what they count."""

    @property
    def asks(self) -> Mapping[str, Grades]: ...


@runtime_checkable
class Says(Protocol):
    """Beside ``Grades``: one that counts something that is of no single play."""

    def metrics(self) -> Metrics:
        """Counts of the run so far; those of several rewards by one name are added up."""


@runtime_checkable
class Declares(Protocol):
    """Beside ``Grades``: one whose totals lie between two numbers. One beyond them is invalid."""

    @property
    def earns(self) -> tuple[float, float]: ...


@runtime_checkable
class Compares(Protocol):
    """Beside ``Grades``: one that may give a reply more or less for what others have said."""

    @property
    def compares(self) -> bool: ...


@dataclass(frozen=True)
class Host:
    """What a stage has that its reward may need.

    ``spend``: FLOPs and tokens of a pass that grades, to the ledger. ``say``: a line for the user.
    ``play``: so many plays of a problem by the weights that the engine has, graded by the env.
    """

    env: Env
    policy: Policy
    chat: Chat
    engine: Engine
    seed: int
    spend: Callable[[float, int], None]
    say: Callable[[str], None]
    play: Callable[[Problem, int], Awaitable[Group]]


@runtime_checkable
class OpensReward(Protocol):
    """A reward's settings. Implementations are frozen dataclasses of them."""

    def open(self, host: Host) -> Grades:
        """What grades for one stage; UserError where it cannot, before anything is spent."""
