"""When to stop following a proxy, by an audit of a few plays; and the form of a climb.

The rule goes on while the newest audited plays are not clearly worse than the best before them, and
then back to the middle of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from upslope.audit.climb import Climbed, Look
from upslope.audit.followed import DRAWS, Formed, Seen, of_draws
from upslope.scaling.forms import Array

PLAYS = 128  # audited ones that say what a policy is worth
SLACK = 2.5  # standard errors by which the newest must be below the best
GAIN = 3.0  # standard errors of the start that a gain must exceed to be shared out
NEAR = 1  # looks on either side that a look is smoothed by
FARTHEST = 0.8  # of the largest distance: looks beyond are what a fit of nearer ones foretells


class Audited(NamedTuple):
    """The middle and the last step of some plays in a row, their number, and mean gold with its
    error."""

    middle: float
    last: int
    plays: int
    gold: Seen


class Stop(NamedTuple):
    """``at``: the step whose weights are kept; ``when``: the step at which that was decided, 0
    where the audit never objected."""

    at: float
    when: int


def windows(audited: Sequence[tuple[int, int, float]], spread: float) -> list[Audited]:
    """Plays of the last steps that together are ``PLAYS``, ending at each step; ``spread``: the
    deviation of one play's gold."""
    found = list[Audited]()
    for end in range(len(audited)):
        plays, first = 0, end + 1
        while first > 0 and plays < PLAYS:
            first -= 1
            plays += audited[first][1]
        if plays < PLAYS:
            continue
        own = audited[first : end + 1]
        mean = sum(count * gold for _, count, gold in own) / plays
        middle = sum(step * count for step, count, _ in own) / plays
        found.append(Audited(middle, own[-1][0], plays, Seen(mean, spread / plays**0.5)))
    return found


def decided(seen: Sequence[Audited]) -> Stop | None:
    """The first stop; None where the newest are never clearly worse than the best."""
    best: Audited | None = None
    for one in seen:
        if best is None or one.gold.mean > best.gold.mean:
            best = one
        elif best.gold.mean - one.gold.mean > SLACK * float(
            np.hypot(best.gold.error, one.gold.error)
        ):
            return Stop(best.middle, one.last)
    return None


def stopped(one: Climbed) -> Stop:
    """Where the audit of a run would have stopped it, or its end."""
    return decided(windows(one.audited, one.spread)) or Stop(float(one.looks[-1].step), 0)


def smoothed(looks: Sequence[Look]) -> Array:
    """Gold of each look with its neighbours'; the first as it is, since it is before all."""
    gold = np.array([look.gold.mean for look in looks])
    means = [
        gold[max(1, i - NEAR) : i + NEAR + 1].mean() if i else gold[0] for i in range(len(gold))
    ]
    return np.array(means)


def keeps(one: Climbed, stop: Stop) -> tuple[float, float, float]:
    """Gold at the peak and at the stop, smoothed, and the share of the gain that the stop keeps;
    not a number where there was no gain beyond errors."""
    gold, steps = smoothed(one.looks), np.array([look.step for look in one.looks], dtype=float)
    there = float(np.interp(stop.at, steps, gold))
    gain, error = float(gold.max() - gold[0]), one.looks[0].gold.error
    share = (there - float(gold[0])) / gain if gain > GAIN * error else float("nan")
    return float(gold.max()), there, share


def dropped(one: Climbed) -> Seen:
    """Gold of the best look's neighbourhood less that of the last ones, and its error. The best of
    many looks is better by luck, too, for which neighbours alone make up."""
    gold = smoothed(one.looks)
    top = int(gold.argmax())
    errors = np.array([look.gold.error for look in one.looks])
    width = 2 * NEAR + 1
    error = float(np.hypot(errors[top], errors[-1])) / width**0.5
    return Seen(float(gold.max() - gold[-1]), error)


def formed_rl(one: Climbed) -> Formed | None:
    """The RL form of gold over the root of the KL; draws are of the looks' errors."""
    kl = np.array([max(look.kl.mean, 0.0) for look in one.looks])
    gold, error = (np.array([look.gold[part] for look in one.looks]) for part in (0, 1))
    distance, random = np.sqrt(kl), np.random.default_rng(0)
    drawn = gold + error * random.standard_normal((DRAWS, len(gold)))
    rise = np.vstack([gold, drawn]) - gold[0]
    far = distance >= FARTHEST * distance.max()
    came = Seen(float(rise[0, far].mean()), float((error[far] ** 2).sum() ** 0.5 / far.sum()))
    return of_draws("rl", distance, rise, far, came)
