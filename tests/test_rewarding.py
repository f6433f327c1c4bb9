"""A stage's reward beside its env's: what trains, what is measured, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.runs import Run
from upslope.session import Session
from upslope.types import UserError

BACKWARDS = """
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass
class Grader:
    host: object
    amount: float

    async def rewards(self, problem, trajectories):
        self.host.spend(1000.0, 7)
        graded = zip(await self.host.env.rewards(problem, trajectories), trajectories)
        return [replace(r, total=self.amount * (len(t.text) + 1)) for r, t in graded]

    async def begin(self, folder):
        folder.mkdir(parents=True)
        (folder / "begun").write_text("yes")
        self.folder = folder

    async def close(self):
        (self.folder / "closed").write_text("yes")


@dataclass(frozen=True)
class Backwards:
    amount: float = 1.0

    def open(self, host):
        return Grader(host, self.amount)


@dataclass(frozen=True)
class Shut:
    pass
"""
RECIPE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "rloo"},
    "rollout": {"problems": 2, "group": 4, "max_tokens": 4, "rows": 16},
    "learner": {"lr": 1e-4},
    "evaluation": {"problems": 4},
    "stop": {"steps": 2},
    "machine": {"threads": 1},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Any]:
    """A recipe whose reward is of a file."""
    (tmp_path / "own.py").write_text(BACKWARDS)

    def made(name: str = "Backwards", **settings: object) -> Any:
        reward = {"type": f"{tmp_path / 'own.py'}:{name}", **settings}
        return read({**RECIPE, "reward": reward, "runs": str(tmp_path / "runs")})

    return made


def trained(recipe: Any) -> Run:
    return train_recipe(recipe, lambda line: None)


def test_the_reward_trains_and_the_env_measures(recipe: Callable[..., Any]) -> None:
    run = trained(recipe(amount=2.0))
    for row in run.metrics():
        assert row["reward/mean"] >= 2.0
        assert row["reward/part/correct"] <= 1.0
    assert all(row["evaluation/sampled/mean"] <= 1.0 for row in run.evaluations())


def test_its_passes_are_training_compute(recipe: Callable[..., Any]) -> None:
    rows = trained(recipe()).metrics()
    graded = [row["ledger/flops/reward"] for row in rows]
    # Two groups a step, after those of the self-check.
    assert graded[1] - graded[0] == 2 * 1000.0
    assert rows[1]["ledger/tokens/reward"] - rows[0]["ledger/tokens/reward"] == 2 * 7
    assert rows[0]["ledger/seconds/reward"] > 0
    phases = ("prefill", "decode", "reward", "update", "sync")
    spent = sum(rows[-1].get(f"ledger/flops/{phase}", 0.0) for phase in phases)
    assert rows[-1]["ledger/training_flops"] == pytest.approx(spent)


def test_it_begins_and_ends_with_its_stage(recipe: Callable[..., Any]) -> None:
    run = trained(recipe())
    kept = sorted(path.name for path in (run.path / "rewards" / "train").iterdir())
    assert kept == ["begun", "closed"]


def test_without_one_the_env_grades_and_no_phase_is_added() -> None:
    session = Session(read(RECIPE), print)
    (one,) = session.stages
    assert session.rewarding(one).grades is one.env
    assert session.rewarding(one) is session.rewarding(one)
    problem = one.problems("train")[0]
    group = asyncio.run(session.trainee(one).group(problem, 0, 2, 0, "train"))
    assert {"correct", "format"} == set(group.rewards[0].parts)
    assert "ledger/seconds/reward" not in session.ledger.row()


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("Shut", {}, "is not a reward: it needs open"),
        ("Backwards", {"amuont": 1.0}, "did you mean reward.amount"),
        ("Nothing", {}, "class"),
    ],
)
def test_wrong_rewards_are_refused(
    recipe: Callable[..., Any], name: str, settings: Mapping[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        Session(recipe(name, **settings), print)
