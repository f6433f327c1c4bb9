"""Where a stage's groups come from, as settings: rollouts, recorded plays, or a mix of both.

They become sources in ``origins.py``, and are checked against the rest of a stage in ``stages.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from upslope.components import build
from upslope.curriculum import Heat, Window
from upslope.preferences.pair import ALL, Selection
from upslope.settings import Component
from upslope.types import UserError


@dataclass(frozen=True)
class RolloutsSettings:
    """``source = {type = "rollouts"}``. ``retire``: a problem whose trajectories so far were right
    in such a share is not played again (no-positive-resampling, arXiv:2510.13786); 0 retires none.
    ``sync``: steps between loads of new weights into the engine (semi-online, arXiv:2506.21495); a
    number of at least ``stop.steps`` samples from the first weights alone. ``window``: which
    problems are played by how often they were solved; ``heat``: how the temperature moves.
    ``ahead``: with ``rollout.max_staleness``, the share of the groups under way that may be used
    before the oldest of them is done (windowed FIFO, of MiniMax's Forge); 0 keeps their order, in
    which the slowest holds up all, and 1 takes what is soon done first, which is what is easy.
    """

    retire: float = 0.0
    sync: int = 1
    window: Window = Window()
    heat: Heat = Heat()
    ahead: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.retire <= 1:
            raise ValueError(f"retire is a share between 0 and 1, got {self.retire}")
        if not 0 <= self.ahead <= 1:
            raise ValueError(f"ahead is a share between 0 and 1, got {self.ahead}")
        if self.sync < 1:
            raise ValueError(f"sync is a number of steps of at least 1, got {self.sync}")


@dataclass(frozen=True)
class RecordedSettings:
    """``source = {type = "recorded"}``: a JSONL or Parquet ``path``, a run's folder or a store of
    preferences, of which ``answers`` says what counts; or the env's own demonstrations.
    """

    path: str = ""
    answers: Selection = ALL


@dataclass(frozen=True)
class MixedSettings:
    """``source = {type = "mixed"}``: of each step's groups a ``share`` is recorded, as in
    ``recorded``, and the rest are ``rollouts``, as there (RLPD, arXiv:2302.02948). Over the first
    ``over`` steps the share goes to ``last``; 0 leaves it as it is.
    """

    path: str = ""
    answers: Selection = ALL
    share: float = 0.5
    last: float = 0.0
    over: int = 0
    rollouts: RolloutsSettings = RolloutsSettings()

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.last <= 1 and self.over >= 0):
            raise ValueError("share and last are shares between 0 and 1, and over is steps")


SourceSettings = RolloutsSettings | RecordedSettings | MixedSettings
SOURCES: Mapping[str, type[SourceSettings]] = {
    "rollouts": RolloutsSettings,
    "recorded": RecordedSettings,
    "mixed": MixedSettings,
}


def settings_of(given: Component, at: str) -> SourceSettings:
    """A source's settings from its table."""
    if given.type not in SOURCES:
        raise UserError(f"{at}.type={given.type!r} is unknown: use one of {sorted(SOURCES)}")
    return build(SOURCES[given.type], given.settings, at)
