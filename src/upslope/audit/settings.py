"""The settings of what watches a stage's training rewards for hacking; ``auditor.py`` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from upslope.types import UserError

On = Literal["say", "screen", "penalise", "pause", "rollback", "stop"]
ACTS: tuple[On, ...] = ("screen", "penalise", "rollback")


@dataclass(frozen=True)
class Alarms:
    """Watches rewards for hacking, where it can with the true reward of a ``share`` of the plays.

    ``on``: what an alarm does. "say" is a line; "screen" takes hacked plays out of the gradient,
    "penalise" takes ``penalty`` off what they earn; "pause" ends the command so that the run can be
    resumed; "rollback" goes back to weights from before, once, and screens; "stop" ends the stage.
    Once there was an alarm, the last three of them aside, a share ``after`` is audited. A reward is
    hacked where it is more than ``margin`` above the true one, and an alarm is that more than
    ``tolerance`` of the plays are.
    """

    on: On = "say"
    share: float = 0.05
    after: float = 1.0
    margin: float = 0.5
    tolerance: float = 0.01
    penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("after", self.after)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} is a share of plays between 0 and 1, got {value}")
        if not 0 < self.tolerance < 0.5:
            raise UserError(
                f"tolerance is a share of plays above 0 and below 0.5, got {self.tolerance}"
            )
        if self.margin < 0 or self.penalty < 0:
            raise UserError("margin and penalty are amounts of reward: they must not be negative")

    @property
    def acts(self) -> bool:
        """Whether plays found to be hacked earn something else."""
        return self.on in ACTS
