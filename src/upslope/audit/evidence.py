"""Evidence that grows while one looks at it, without more false alarms for looking at every step.

A sum of e-processes, one begun at each look (arXiv:2203.03532): while the mean of what is seen
stays within a bound, looks until a false alarm are ``PATIENCE`` on average at least, whenever one
looks and however many values a look has. No distribution is assumed, only a range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PATIENCE = 10_000.0
ALARM = math.log(PATIENCE)
BETS = (0.01, 0.03, 0.1, 0.3, 0.8)  # shares of the largest bet that cannot lose everything
NONE = (0.0,) * len(BETS)


def grown(
    evidence: Sequence[float], values: Sequence[float], bound: float, low: float = 0.0
) -> list[float]:
    """The evidence after a look at values against "their mean is at most ``bound``", by bet.

    ``values`` are at least ``low``, which is below the bound. What was there and one unit more is
    bet on each value, at fair odds if the mean is at the bound. Logs of what there is, plus one.
    """
    largest = 1 / (bound - low)
    found = []
    for bet, before in zip(BETS, evidence, strict=True):
        after = before + sum(math.log1p(bet * largest * (x - bound)) for x in values)
        found.append(max(after, 0.0) + math.log1p(math.exp(-abs(after))))
    return found


def weight(evidence: Sequence[float]) -> float:
    """Of all bets together, in nats from 0; an alarm is ``ALARM``."""
    most = max(evidence)
    return most + math.log(sum(math.exp(e - most) for e in evidence) / len(evidence))
