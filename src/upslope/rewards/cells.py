"""How well the cells that an answer names cover those that it rests on: F1, and recall."""

from __future__ import annotations

from collections.abc import Set


def overlap(named: Set[str], gold: Set[str]) -> tuple[float, float]:
    """F1 and recall of the cells named; both 1 where no cell is wanted and none is named."""
    if not gold:
        return (0.0, 0.0) if named else (1.0, 1.0)
    hit = len(named & gold)
    return 2 * hit / (len(named) + len(gold)), hit / len(gold)
