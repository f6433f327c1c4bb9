"""What a run spends, by phase: FLOPs, tokens, seconds, money. It counts; it does not estimate.

FLOPs and tokens are told to it by those who computed them (``models.flops``); times are its own.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any, Literal, get_args

from upslope.types import Metrics

Phase = Literal["prefill", "decode", "reward", "reference", "update", "evaluation", "check", "sync"]
PHASES: tuple[Phase, ...] = get_args(Phase)
TRAINING: tuple[Phase, ...] = ("prefill", "decode", "reward", "reference", "update", "sync")


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything spent. ``training_flops`` leaves out evaluations and the self-check.

    ``seconds`` is the time elapsed, not the sum over phases; ``cpu_seconds`` is of this process and
    of its ended children, all threads.
    """

    flops: float
    training_flops: float
    tokens: int
    seconds: float
    cpu_seconds: float
    money: float

    def since(self, before: Totals) -> Totals:
        """What was spent after ``before``."""
        return Totals(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))


class Ledger:
    """A run's spending so far; safe to use from several threads and tasks at once.

    Each instant is counted once: where several phases are open together they share it equally, and
    a phase open twice counts as one. So the phases' seconds never add up to more than elapsed.
    """

    def __init__(
        self,
        price_per_hour: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] | None = None,
    ) -> None:
        """Start the clocks; ``price_per_hour`` 0 is unpriced."""
        self._price = price_per_hour
        self._clock = clock
        self._cpu_clock = cpu_clock or cpu_seconds
        self._lock = threading.Lock()
        self._open = dict.fromkeys(PHASES, 0)
        self._flops = dict.fromkeys(PHASES, 0.0)
        self._tokens = dict.fromkeys(PHASES, 0)
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._elapsed = self._cpu = self._money = 0.0
        self._wall_mark, self._cpu_mark = clock(), self._cpu_clock()

    def add(self, phase: Phase, flops: float = 0.0, tokens: int = 0) -> None:
        """Count work done in a phase; raises ValueError for less than nothing."""
        if not (flops >= 0 and tokens >= 0):
            raise ValueError(f"spent in {phase}: {flops} FLOPs and {tokens} tokens; neither can be")
        with self._lock:
            self._flops[phase] += flops
            self._tokens[phase] += tokens

    @contextmanager
    def time(self, phase: Phase) -> Iterator[None]:
        """Count the time of a block to a phase, also where the block fails."""
        self._shift(phase, 1)
        try:
            yield
        finally:
            self._shift(phase, -1)

    def totals(self) -> Totals:
        """What has been spent until now."""
        with self._lock:
            self._settle()
            return Totals(
                flops=sum(self._flops.values()),
                training_flops=sum(self._flops[phase] for phase in TRAINING),
                tokens=sum(self._tokens.values()),
                seconds=self._elapsed,
                cpu_seconds=self._cpu,
                money=self._money,
            )

    def row(self) -> Metrics:
        """Cumulative metrics: totals, and each phase that has spent something."""
        totals = self.totals()
        row = {
            "ledger/flops": totals.flops,
            "ledger/training_flops": totals.training_flops,
            "ledger/tokens": float(totals.tokens),
            "ledger/seconds": totals.seconds,
            "ledger/cpu_seconds": totals.cpu_seconds,
            "ledger/money": totals.money,
        }
        kinds: dict[str, Mapping[Phase, float]] = {
            "flops": self._flops,
            "tokens": self._tokens,
            "seconds": self._seconds,
        }
        for kind, spent in kinds.items():
            row |= {f"ledger/{kind}/{phase}": float(n) for phase, n in spent.items() if n}
        if self._seconds["reward"]:
            flops, seconds = totals.training_flops or 1.0, totals.seconds
            row["reward/flops_share"] = self._flops["reward"] / flops
            row["reward/seconds_share"] = self._seconds["reward"] / seconds
        return row

    def state(self) -> dict[str, Any]:
        """What a resumed run continues from; JSON types only."""
        totals = self.totals()
        return {
            "flops": dict(self._flops),
            "tokens": dict(self._tokens),
            "phase_seconds": dict(self._seconds),
            "seconds": totals.seconds,
            "cpu_seconds": totals.cpu_seconds,
            "money": totals.money,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; what was spent before the call is forgotten, time included."""
        with self._lock:
            self._settle()
            for phase in PHASES:
                self._flops[phase] = float(state["flops"].get(phase, 0))
                self._tokens[phase] = int(state["tokens"].get(phase, 0))
                self._seconds[phase] = float(state["phase_seconds"].get(phase, 0))
            self._elapsed = float(state["seconds"])
            self._cpu = float(state["cpu_seconds"])
            self._money = float(state["money"])

    def _shift(self, phase: Phase, by: int) -> None:
        with self._lock:
            self._settle()
            self._open[phase] += by

    def _settle(self) -> None:
        """Share out the time since the last call; the lock is held."""
        now, cpu_now = self._clock(), self._cpu_clock()
        passed = now - self._wall_mark
        open_phases = [phase for phase, times in self._open.items() if times]
        for phase in open_phases:
            self._seconds[phase] += passed / len(open_phases)
        self._elapsed += passed
        self._cpu += cpu_now - self._cpu_mark
        self._money += passed / 3600 * self._price
        self._wall_mark, self._cpu_mark = now, cpu_now


def cpu_seconds() -> float:
    """CPU-seconds of this process and of its ended children (graders, sandboxes)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
