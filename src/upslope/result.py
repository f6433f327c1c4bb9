"""What a run came to: the records of ``result.json``. No behaviour but checking themselves."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from upslope.types import Metrics


class Record(BaseModel):
    """A frozen part of ``result.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(Record):
    """A mean over problems with its 95% interval."""

    mean: float
    low: float
    high: float
    problems: int


class Accuracy(Record):
    """An evaluation: accuracy of samples at temperature 1, and of greedy answers."""

    sampled: Estimate
    greedy: Estimate

    def metrics(self) -> Metrics:
        """The evaluation's row of ``evaluations.jsonl``: ``evaluation/sampled/mean`` and so on."""
        pairs = {"sampled": self.sampled, "greedy": self.greedy}
        return {
            f"evaluation/{name}/{key}": float(value)
            for name, estimate in pairs.items()
            for key, value in estimate.model_dump().items()
        }


class StageResult(Record):
    """What one stage of a run changed, what it took, evaluations included, and what ended it.

    ``selected``: the step whose weights did best on validation and were kept, with
    ``evaluation.select``; ``before`` and ``after`` are then the only looks at the test split.
    """

    name: str
    before: Accuracy
    after: Accuracy
    steps: int
    flops: float
    seconds: float
    cpu_seconds: float
    stopped_by: str
    selected: int | None = None


class Result(Record):
    """The contents of ``result.json``; ``flops`` and times are the ledger's, of the whole run.

    ``before`` and ``after`` are those of the last stage.
    """

    before: Accuracy
    after: Accuracy
    flops: float
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    steps: int
    stopped_by: str
    stages: tuple[StageResult, ...]
