"""How long an optimiser step is, and whether it is taken: learning-rate schedules, gradient spikes.

Numbers only; the optimiser is the learner's.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable

from upslope.settings import Learner as LearnerSettings

USUAL = 32  # gradient norms that say what is usual
FEWEST = 8  # fewer say nothing


def learning_rate(settings: LearnerSettings, done: int, total: int) -> float:
    """The learning rate of the update after ``done`` of ``total``; 0 is without an end.

    It rises over ``warmup`` updates. A linear or cosine schedule then falls, so that it would reach
    ``floor`` times ``lr`` one update after the last.
    """
    if done < settings.warmup:
        return settings.lr * (done + 1) / (settings.warmup + 1)
    if settings.schedule == "constant":
        return settings.lr
    past = min(1.0, (done - settings.warmup) / (total - settings.warmup))
    left = 1 - past if settings.schedule == "linear" else (1 + math.cos(math.pi * past)) / 2
    return settings.lr * (settings.floor + (1 - settings.floor) * left)


class Spikes:
    """Tells unusual gradient norms: above ``times`` the median of the last ones; 0 tells none.

    A spike counts among the last ones too, so that larger gradients for good become usual.
    """

    def __init__(self, times: float, norms: Iterable[float] = ()) -> None:
        self.times = times
        self.norms = deque(norms, USUAL)

    def seen(self, norm: float) -> bool:
        """Whether this norm is a spike; one of 0, of a batch without signal, says nothing."""
        usual = statistics.median(self.norms) if len(self.norms) >= FEWEST else math.inf
        if norm > 0:
            self.norms.append(norm)
        return self.times > 0 and norm > self.times * usual
