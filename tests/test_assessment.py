"""Selection on validation: the best weights are kept, and the test split is asked twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from safetensors.torch import load_file

from plays import Digits
from records import Interrupt, untimed
from upslope.algorithms import parts
from upslope.algorithms.sft import SFT
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read, State
from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.resume import resume_recipe
from upslope.runs import Run
from upslope.types import Metrics, Problem, Split, UserError

TURN = 30  # steps, after which what was learned is unlearned: the last weights are not the best
RECIPE: Mapping[str, Any] = {
    "name": "chosen",
    "model": "ladder:0.1m",
    "machine": {"threads": 1},
    "check": {"enabled": False},
    "env": {"type": f"{__file__}:Sevens"},
    "algorithm": {"type": f"{__file__}:Undone"},
    "source": {"type": "recorded"},
    "rollout": {"problems": 4, "max_tokens": 1},
    "learner": {"lr": 3e-4},
    "evaluation": {"samples": 64, "every": 10, "select": True},
    "checkpoint": {"every": 10},
    "stop": {"steps": 60},
}


@dataclass(frozen=True)
class Sevens:
    """A digit is to be said, and 7 is what is shown."""

    problems, play, rewards = Digits.problems, Digits.play, Digits.rewards

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        return ((problem, problem.solution) for problem in self.problems(split))


@final
@dataclass(frozen=True)
class Undone:
    """SFT, and after ``TURN`` steps its contrary."""

    needs: ClassVar[frozenset[Column]] = parts.NO_COLUMNS
    reads: ClassVar[frozenset[Read]] = frozenset({"logprobs"})
    couples: ClassVar[Couples] = "row"
    claims: ClassVar[frozenset[Claim]] = frozenset({"any_policy"})
    keep = parts.keep_all

    def start(self) -> State:
        return {"steps": 0.0}

    def advance(self, state: State, metrics: Metrics) -> State:
        return {"steps": state["steps"] + 1}

    def advantages(self, batch: Batch) -> torch.Tensor:
        return batch.trained.float()

    def weights(self, batch: Batch) -> torch.Tensor:
        return SFT().weights(batch)

    def loss(self, out: Outputs, batch: Batch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        return out.logprobs * (-1 if batch.state["steps"] < TURN else 1), {}


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
    assert len(asked["train/test"]) == len(asked["train/evaluation"]) == 2
    assert not asked["train/test"] & asked["train/evaluation"]


def test_weights_that_a_resumed_run_has_not_made_are_forgotten(tmp_path: Path) -> None:
    """They may have come of other settings than those it goes on with."""
    given = read({**RECIPE, "runs": str(tmp_path), "checkpoint": {"every": 15}})
    with pytest.raises(KeyboardInterrupt):
        train_recipe(given, silent, watches=[Interrupt(25)])
    killed = Run.open(tmp_path / "chosen")
    kept = sorted(path.name for path in (killed.path / "best" / "train").iterdir())
    assert kept[-1] == "step-000020"  # after the checkpoint of step 15
    begun = load_file(killed.path / "checkpoints" / "step-000015" / "model" / "model.safetensors")
    changed = read(
        {**RECIPE, "runs": str(tmp_path), "checkpoint": {"every": 15}}, ["learner.lr=1e-9"]
    )
    run = resume_recipe(changed, silent, allow=["learner.lr"])
    result = run.result()
    assert result is not None
    assert result.stages[0].selected in {row["step"] for row in run.evaluations()}
    ours = weights(run)  # so low a rate leaves those of the checkpoint
    assert all(torch.allclose(ours[name], begun[name], atol=1e-5) for name in ours)


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
