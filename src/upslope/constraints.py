"""Multipliers that hold a mean cost to a budget. Pure rules of the cost of a step, and a state.

The Lagrangian of max J_r subject to J_c <= budget is J_r - multiplier * (J_c - budget). Policies
climb it; a multiplier rises while its cost, as the env gave it, is over the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

State = Mapping[str, float]
AVERAGE = 0.9  # of the price's moving average, which sees about ten steps
LEAST = 0.01  # of its start, under which "log" does not go


@dataclass(frozen=True)
class Constraint:
    """A ``budget`` for a cost's mean over a step's trajectories, and how its multiplier moves.

    With e = cost - budget of a step, and never below 0 or above ``most``:
    "lagrange": multiplier += rate * e. "log": log multiplier += rate * multiplier * e (Safe RLHF,
    arXiv:2310.12773), from a ``start`` above 0 and not under a hundredth of it. "pid": I +
    proportional * P + derivative * D with I = max(0, I + rate * e), P the moving average of e and
    D = max(0, the rise of the moving average of the cost), both of decay ``smoothing``
    (arXiv:2007.03964). ``delay``: steps before it first moves.
    """

    budget: float
    multiplier: Literal["lagrange", "log", "pid"] = "lagrange"
    rate: float = 0.05
    start: float = 0.0
    most: float = 100.0
    proportional: float = 0.0
    derivative: float = 0.0
    smoothing: float = 0.0
    delay: int = 0

    def __post_init__(self) -> None:
        gains = (self.proportional, self.derivative, self.smoothing)
        if not math.isfinite(self.budget) or min(self.rate, *gains, self.delay) < 0:
            raise ValueError("a budget is finite, and rate, gains and delay are not negative")
        if not 0 <= self.start <= self.most or not self.smoothing < 1:
            raise ValueError("start lies between 0 and most, and smoothing is below 1")
        if self.multiplier == "log" and not self.start:
            raise ValueError('multiplier = "log" multiplies its start: set start above 0')
        if self.multiplier != "pid" and any(gains):
            raise ValueError(
                'proportional, derivative and smoothing are those of multiplier = "pid"'
            )

    def begin(self) -> State:
        """The state before the first step: the multiplier, and what its rule remembers."""
        return {"multiplier": self.start, "price": self.start, "integral": self.start, "steps": 0.0}

    def advance(self, state: State, cost: float) -> State:
        """The state after a step of this mean cost. ``price``: the multiplier's moving average."""
        error, known = cost - self.budget, state["steps"] > 0
        kept = self.smoothing
        smooth = kept * state["error"] + (1 - kept) * error if known else error
        level = kept * state["level"] + (1 - kept) * cost if known else cost
        rise = max(0.0, level - state["level"]) if known else 0.0
        moves = state["steps"] >= self.delay
        integral = state["integral"]
        if moves and self.multiplier == "log":
            integral *= math.exp(min(self.rate * integral * error, 20.0))
            # Its pace is its own size: from next to 0, one step far under budget, it has none.
            integral = max(integral, LEAST * self.start)
        elif moves:
            integral = max(0.0, integral + self.rate * error)
        integral = min(integral, self.most)
        shift = self.proportional * smooth + self.derivative * rise if moves else 0.0
        multiplier = min(max(0.0, integral + shift), self.most)
        return {
            "multiplier": multiplier,
            "price": AVERAGE * state["price"] + (1 - AVERAGE) * multiplier,
            "integral": integral,
            "error": smooth,
            "level": level,
            "steps": state["steps"] + 1,
        }
