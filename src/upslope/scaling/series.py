"""A run's reward against its compute, as points with their errors: what fits are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from upslope.recipe import differences
from upslope.recipe import read as read_recipe
from upslope.runs import Run
from upslope.scaling.forms import Array
from upslope.types import UserError

COMPUTE = "ledger/training_flops"
FEWEST = 6  # points, to tell a sigmoid's parameters and how well it does
WIDTH = 2 * 1.959964  # of a 95% interval in standard errors
Metric = Literal["sampled", "greedy", "reward"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True)
class Series:
    """One run's last stage: ``mean`` [point] with its standard ``error``, at ``compute`` in FLOPs.

    ``compute`` counts training alone, evaluations left out, from the stage's beginning.
    ``outcomes`` [problem, point]: how right each held-out problem was, NaN where it could not be
    graded; None for a metric whose problems are other ones each time.
    """

    name: str
    metric: Metric
    compute: Array
    mean: Array
    error: Array
    outcomes: Array | None = None

    @property
    def end(self) -> float:
        """The compute it has come to."""
        return float(self.compute[-1])

    def up_to(self, compute: float) -> Series:
        """Its points of at most so much compute."""
        seen = self.compute <= compute
        outcomes = None if self.outcomes is None else self.outcomes[:, seen]
        points = self.compute[seen], self.mean[seen], self.error[seen]
        return Series(self.name, self.metric, *points, outcomes)


def series_of(run: Run, metric: Metric = "sampled", outcomes: bool = True) -> Series:
    """What a run's files say so far; UserError where they hold too few points.

    ``outcomes``: whether to read each problem's own, which takes reading all trajectories.
    """
    rows = run.metrics() if metric == "reward" else run.evaluations()
    if not rows:
        raise UserError(f"{run.path} has no {'steps' if metric == 'reward' else 'evaluations'} yet")
    stage = rows[-1]["stage"]
    if metric == "reward" and "reward/std" not in rows[-1]:
        raise UserError(f"{run.path} has no rewards in its stage {stage}: forecast its accuracy")
    key = "reward" if metric == "reward" else f"evaluation/{metric}"
    rows = [row for row in rows if row["stage"] == stage and row.get(f"{key}/mean") is not None]
    _refuse_few(run, metric, rows)
    mean = np.array([row[f"{key}/mean"] for row in rows])
    if metric == "reward":
        # Groups are the independent units, and reward/std is over all trajectories: no more than.
        error = [row["reward/std"] / row["groups/used"] ** 0.5 for row in rows]
    else:
        error = [(row[f"{key}/high"] - row[f"{key}/low"]) / WIDTH for row in rows]
    compute = np.array([row[COMPUTE] for row in rows]) - begun(run, stage)
    told = _outcomes(run, stage, metric, rows) if outcomes and metric != "reward" else None
    least = np.median(error) / 10  # a step whose rewards all agree is no certainty
    return Series(str(run.path), metric, compute, mean, np.maximum(error, least), told)


def alike(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in more than their seeds."""
    first, *others = [read_recipe(run.path / "recipe.toml") for run in runs]
    for run, recipe in zip(runs[1:], others, strict=True):
        apart = [key for key in differences(first, recipe) if key != "seed"]
        if apart:
            raise UserError(
                f"{runs[0].path} and {run.path} differ in {', '.join(apart[:3])}: runs that share "
                "a curve differ in nothing but their seeds"
            )


def _refuse_few(run: Run, metric: Metric, rows: Sequence[Mapping[str, Any]]) -> None:
    if len(rows) >= FEWEST:
        return
    cure = "let it go on"
    if (
        metric != "reward"
        and not read_recipe(run.path / "recipe.toml").stages()[-1].evaluation.every
    ):
        cure = "set evaluation.every, or take --metric reward"
    raise UserError(
        f"{run.path} has {len(rows)} points of {metric}, and a curve needs {FEWEST}: {cure}"
    )


def begun(run: Run, stage: str) -> float:
    """Training FLOPs before a stage: those of the last step of the stage before it."""
    before = [row[COMPUTE] for row in run.metrics() if row["stage"] != stage]
    return float(before[-1]) if before else 0.0


def _outcomes(
    run: Run, stage: str, metric: Metric, rows: Sequence[Mapping[str, Any]]
) -> Array | None:
    """[problem, point] from the trajectories of evaluations; None where they are not all there."""
    places = {row["step"]: i for i, row in enumerate(rows)}
    right: dict[str, list[list[float]]] = {}
    for row in run.trajectories(f"{stage}/evaluation"):
        greedy = str(row["id"]).endswith("/greedy")
        if row["valid"] and row["step"] in places and greedy == (metric == "greedy"):
            seen = right.setdefault(row["problem"], [[] for _ in rows])
            seen[places[row["step"]]].append(row["parts"].get("correct", row["reward"]))
    found = np.array([[np.mean(v) if v else np.nan for v in seen] for seen in right.values()])
    return found if len(found) and not np.isnan(found).all(0).any() else None
