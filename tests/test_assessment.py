"""Selection on validation: the best weights are kept, and the test split is asked twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from records import Interrupt, untimed
from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.resume import resume_recipe
from upslope.runs import Run
from upslope.types import UserError

# So high a learning rate that accuracy falls again: the last weights are not the best.
RECIPE: Mapping[str, Any] = {
    "name": "chosen",
    "model": "ladder:0.1m",
    "machine": {"threads": 1},
    "check": {"enabled": False},
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "sft"},
    "source": {"type": "recorded"},
    "rollout": {"problems": 16, "max_tokens": 3},
    "learner": {"lr": 3e-2},
    "evaluation": {"problems": 8, "samples": 8, "every": 10, "select": True},
    "checkpoint": {"every": 10},
    "stop": {"steps": 60},
}


def silent(line: str) -> None:
    """Says nothing."""


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    return train_recipe(read({**RECIPE, "runs": str(folder)}), silent)


def test_the_best_on_validation_are_the_runs_weights(run: Run, tmp_path: Path) -> None:
    accuracy = {row["step"]: row["evaluation/sampled/mean"] for row in run.evaluations()}
    assert list(accuracy) == [0, 10, 20, 30, 40, 50, 60]
    best = max(accuracy, key=accuracy.__getitem__)
    assert 0 < best < 60
    result = run.result()
    assert result is not None
    assert result.stages[0].selected == best
    short = read({**RECIPE, "runs": str(tmp_path), "stop": {"steps": best}})
    ours, theirs = weights(run), weights(train_recipe(short, silent))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_test_split_is_asked_once_before_and_once_after(run: Run) -> None:
    before, after = run.tests()
    assert (before["step"], after["step"]) == (0, 60)
    result = run.result()
    assert result is not None
    for accuracy, row in ((result.before, before), (result.after, after)):
        assert accuracy.sampled.mean == row["evaluation/sampled/mean"]
    asked: dict[str, set[str]] = {"train/evaluation": set(), "train/test": set()}
    for row in run.trajectories():
        asked[row["stage"]].add(row["problem"])
    assert len(asked["train/test"]) == len(asked["train/evaluation"]) == 8
    assert not asked["train/test"] & asked["train/evaluation"]


def test_weights_that_a_resumed_run_has_not_made_are_forgotten(tmp_path: Path) -> None:
    """They may have come of other settings than those it goes on with."""
    given = read({**RECIPE, "runs": str(tmp_path), "checkpoint": {"every": 15}})
    with pytest.raises(KeyboardInterrupt):
        train_recipe(given, silent, watches=[Interrupt(25)])
    killed = Run.open(tmp_path / "chosen")
    kept = sorted(path.name for path in (killed.path / "best" / "train").iterdir())
    assert kept[-1] == "step-000020"  # after the checkpoint of step 15
    changed = read({**RECIPE, "runs": str(tmp_path), "checkpoint": {"every": 15}}, ["learner.lr=1"])
    run = resume_recipe(changed, silent, allow=["learner.lr"])
    result = run.result()
    assert result is not None
    assert result.stages[0].selected in {row["step"] for row in run.evaluations()}
    assert result.stages[0].selected <= 10  # so high a rate undoes all of it


def test_a_resumed_run_chooses_alike(run: Run, tmp_path: Path) -> None:
    given = read({**RECIPE, "runs": str(tmp_path)})
    with pytest.raises(KeyboardInterrupt):
        train_recipe(given, silent, watches=[Interrupt(35)])
    resumed = resume_recipe(given, silent)
    assert untimed(resumed.tests()) == untimed(run.tests())
    assert untimed(resumed.evaluations()) == untimed(run.evaluations())
    ours, theirs = weights(run), weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluation.every=0", "evaluation.select has nothing to choose from"),
        ("evaluation.split=validation", "measures on validation and tests once on test"),
    ],
)
def test_a_choice_without_a_measure_is_refused(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(RECIPE, [override])
