"""One reward made of several that the same trajectory earned. Sums only; nothing is asked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from upslope.types import Reward, Usage


def merged(
    named: Mapping[str, Reward], weights: Mapping[str, float], total: float | None = None
) -> Reward:
    """The weighted sum of those that have a weight, or ``total``; invalid where one of these is.

    Parts: each one's total by its name, and its own parts (``name.part`` where another has that
    name). A cost by one name is the largest. ``answer``: the first that there is.
    """
    if reason := failed(named, weights):
        return Reward(0.0, valid=False, reason=reason, usage=usage(named))
    known = {name: r for name, r in named.items() if r.valid}
    parts = {name: r.total for name, r in known.items()}
    for name, r in known.items():
        parts |= {(f"{name}.{own}" if own in parts else own): x for own, x in r.parts.items()}
    costs: dict[str, float] = {}
    for r in known.values():
        costs |= {cost: max(x, costs.get(cost, x)) for cost, x in r.costs.items()}
    at = [
        (segment, token, weight * value)
        for name, weight in weights.items()
        for segment, token, value in named[name].at
    ]
    if total is None:
        total = sum(weight * named[name].total for name, weight in weights.items())
    answer = next((r.answer for r in known.values() if r.answer), "")
    return Reward(total, parts, costs, at=tuple(at), usage=usage(named), answer=answer)


def failed(named: Mapping[str, Reward], needed: Mapping[str, float]) -> str:
    """Why one of those needed says nothing, with its name; "" where all do."""
    return next((f"{n}: {named[n].reason}" for n in needed if not named[n].valid), "")


def usage(named: Mapping[str, Reward]) -> Usage:
    """What all of them have cost."""
    return sum((r.usage for r in named.values()), Usage())


def noted(reward: Reward, parts: Mapping[str, float]) -> Reward:
    """The same with more parts."""
    return replace(reward, parts={**reward.parts, **parts})
