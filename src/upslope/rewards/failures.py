"""How asking a judge may fail, each counted by its kind, and the share at which a run stops."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal, get_args

from upslope.types import Metrics, UserError

Kind = Literal["unreachable", "timeout", "refused", "unparsable", "out_of_range"]
RECENT = 100  # verdicts that the share is taken over
FEWEST = 20  # below which no share says anything


class VerdictError(Exception):
    """No verdict: of this kind, with a reason; ``again`` where another try may help."""

    def __init__(self, kind: Kind, reason: str, again: bool = False) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind, self.again = kind, again


@dataclass
class Failures:
    """Verdicts of a run so far, and how the last of them went. ``most``: the share that may fail,
    ``name``: whose they are."""

    most: float
    name: str
    asked: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))

    def count(self, failed: VerdictError | None) -> None:
        """One more; UserError where too many of the last ones failed."""
        self.asked += 1
        self.recent.append(str(failed) if failed else "")
        if failed is None:
            return
        self.kinds[failed.kind] += 1
        bad = [reason for reason in self.recent if reason]
        share = len(bad) / len(self.recent)
        if len(self.recent) >= FEWEST and share > self.most:
            raise UserError(
                f"{len(bad)} of the last {len(self.recent)} verdicts of {self.name} failed, more "
                f"than failures={self.most:g} allows; the last one: {failed}"
            )

    def metrics(self) -> Metrics:
        """Verdicts asked for, and those that failed by kind."""
        each = {f"judge/failed/{kind}": float(self.kinds[kind]) for kind in get_args(Kind)}
        return {"judge/asked": float(self.asked), **each}
