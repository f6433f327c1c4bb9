"""What a policy would earn, from what another one did: importance sampling, without a model.

The ratio of a play is how much likelier it is under the policy asked about than it was under the
one that recorded it. Problems are the independent units, so intervals are clustered by problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from upslope.estimates import Interval, t_interval
from upslope.types import UserError

LEAST = 30.0  # plays' worth of evidence under which no interval would hold what it says
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Replay:
    """A recorded play of a problem, as another policy sees it.

    ``ratios``: log of how much likelier all is up to the end of each turn; ``rewards``: what each
    turn earned, the outcome with the last.
    """

    problem: str
    ratios: tuple[float, ...]
    rewards: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.rewards)


@dataclass(frozen=True)
class Hindsight:
    """Mean rewards with 95% intervals: as ``recorded``, and of the policy asked about.

    ``effective``: how many of its own plays the ``plays`` are worth; ``largest``: the share of the
    heaviest.
    """

    recorded: Interval
    ordinary: Interval
    weighted: Interval
    per_decision: Interval
    effective: float
    largest: float
    plays: int
    problems: int


def hindsight(replays: Sequence[Replay]) -> Hindsight:
    """All estimates; UserError where the plays say too little of the policy.

    Ordinary importance sampling is unbiased, and wide; weighted (self-normalised) is consistent,
    and narrow; per-decision weighs what a turn earned by the ratio up to its end alone, and is the
    ordinary one where only the last earns (Precup, Sutton and Singh, 2000).
    """
    names, member = np.unique([r.problem for r in replays], return_inverse=True)
    if len(names) == 1:
        raise UserError(
            f"all recorded plays are of one problem, {replays[0].problem!r}, and an interval over "
            "problems needs at least two: record plays of others as well"
        )
    ratio = np.exp([min(r.ratios[-1], 50.0) for r in replays])
    total = np.array([r.total for r in replays])
    share = 1 / np.bincount(member)[member]  # every problem counts as much
    each = ratio * share
    effective = float(each.sum() ** 2 / (each**2).sum()) if each.any() else 0.0
    if effective < LEAST:
        raise UserError(
            f"{len(replays)} recorded plays are worth {effective:.1f} of this policy's own, and "
            f"fewer than {LEAST:g} say nothing: record more, or with a policy that is nearer to it"
        )
    steps = [
        float(np.dot(np.exp(np.minimum(r.ratios, 50.0)), np.array(r.rewards))) for r in replays
    ]

    def mean(values: Array) -> Interval:
        return t_interval(np.bincount(member, values * share))

    return Hindsight(
        mean(total),
        mean(ratio * total),
        _normalised(each, total, member),
        mean(np.array(steps)),
        effective,
        float(each.max() / each.sum()),
        len(replays),
        len(names),
    )


def _normalised(weights: Array, values: Array, member: NDArray[np.int64]) -> Interval:
    """sum(w v) / sum(w); the interval by how each problem moves it (the delta method)."""
    mean = float(weights @ values / weights.sum())
    moves = np.bincount(member, weights * (values - mean)) / weights.sum()
    spread = t_interval(moves * len(moves))
    return Interval(mean, mean - (spread.mean - spread.low), mean + (spread.high - spread.mean))
