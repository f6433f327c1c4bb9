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
BETS = (0.02, 0.1, 0.4, 0.8)  # shares of the largest bet that cannot lose everything


def weighed(values: Sequence[float], bound: float, low: float) -> float:
    """Log of what a look is worth against "their mean is at most ``bound``": a fair bet's return.

    ``values`` are at least ``low``, which is below the bound; 0 for no values.
    """
    if not values:
        return 0.0
    largest = 1 / (bound - low)
    returns = [sum(math.log1p(bet * largest * (x - bound)) for x in values) for bet in BETS]
    most = max(returns)
    return most + math.log(sum(math.exp(r - most) for r in returns) / len(BETS))


def grown(evidence: float, values: Sequence[float], bound: float, low: float = 0.0) -> float:
    """The evidence after a look, in nats from 0; an alarm is ``ALARM``."""
    after = evidence + weighed(values, bound, low)
    return max(after, 0.0) + math.log1p(math.exp(-abs(after)))
