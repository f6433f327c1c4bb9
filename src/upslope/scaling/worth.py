"""Worth going on? After each evaluation, what as much compute again would bring; ``stop.gain``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from upslope.recipe import Stage
from upslope.runs import Run
from upslope.scaling.curves import Bounds, Curve, fitted, refusal
from upslope.scaling.series import FEWEST, series_of
from upslope.types import Action, Group, Metrics

DRAWS = 200


class Worth:
    """A watch that forecasts from the run's own files, so that a resumed run forecasts alike.

    It asks for a stop where even the high end of the forecast is below the stage's ``stop.gain``.
    """

    def __init__(self, run: Run, stages: Sequence[Stage], say: Callable[[str], None]) -> None:
        self.run, self.say, self.done = run, say, False
        self.least = {stage.name: stage.stop.gain for stage in stages}

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """Forecast after an evaluation; a stop comes with the step after it."""
        if groups:
            stops, self.done = self.done, False
            return ("stop",) if stops else ()
        rows = [row for row in self.run.evaluations() if row["stage"] == stage]
        if len(rows) < FEWEST:
            return ()
        curve = fitted([series_of(self.run, outcomes=False)], draws=DRAWS)
        refused = refusal(curve)
        if refused:
            self.say(f"  worth going on? {refused}")
            return ()
        more = gain(curve)
        self.say(f"  worth going on? as much compute again would bring {points(more)}")
        if more.high < self.least[stage]:
            self.done = True
            self.say(f"  stopping: that is below stop.gain={self.least[stage]:g}")
        return ()


def gain(curve: Curve) -> Bounds:
    """The accuracy that doubling the compute would add."""
    return curve.bounds(np.diff(curve.solved.at(np.array([1, 2]) * curve.end))[:, 0])


def points(more: Bounds) -> str:
    """A gain in points of accuracy."""
    value, low, high = (100 * x for x in more)
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"
