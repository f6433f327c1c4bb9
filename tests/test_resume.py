"""A run that was killed goes on as if it had not been; what cannot be the same run is refused."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import deaths
from records import Interrupt, untimed
from test_train import DIGITS
from upslope.checkpoints import read_checkpoint
from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.resume import refuse_other_weights, resume_recipe
from upslope.runs import Run
from upslope.types import Action, Metrics, UserError

SCRIPT = Path(deaths.__file__)
# Of all events: random moments, after the first tenth, in which there is hardly a run.
SHARES = [f"{random.Random(seed).uniform(0.1, 1):.3f}" for seed in range(3)]


def silent(line: str) -> None:
    """Says nothing."""


def resume(folder: Path, *overrides: str, allow: Sequence[str] = ()) -> Run:
    given = read({**deaths.RECIPE, "runs": str(folder)}, overrides)
    return resume_recipe(given, silent, allow=allow)


def weights(run: Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.path / "model" / "model.safetensors")


def same(run: Run, other: Run) -> None:
    """Bitwise, but for what a clock said."""
    assert untimed(run.metrics()) == untimed(other.metrics())
    assert untimed(run.evaluations()) == untimed(other.evaluations())
    assert run.trajectories() == other.trajectories()
    ours, theirs = weights(run), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    results = [r.model_dump() for r in (run.result(), other.result()) if r is not None]
    assert len(results) == 2
    for result in results:
        for part in (result, *result["stages"]):
            for clock in ("seconds", "cpu_seconds", "peak_memory_bytes"):
                part.pop(clock, None)
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``deaths.py`` left: a whole run, and three that were killed."""
    made = tmp_path_factory.mktemp("deaths")
    command = [sys.executable, str(SCRIPT), str(made), *SHARES]
    subprocess.run(command, check=True, timeout=300)
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> Run:
    """A run that nothing interrupted."""
    return Run.open(folder / "whole" / "killed")


@pytest.mark.parametrize("share", SHARES)
def test_killed_at_a_random_moment_and_resumed_it_is_the_same_run(
    folder: Path, whole: Run, share: str
) -> None:
    killed = Run.open(folder / share / "killed")
    assert killed.result() is None
    same(resume(folder / share), whole)
    (row,) = map(json.loads, (killed.path / "resumed.jsonl").read_text().splitlines())
    assert row["changed"] == []
    assert row["packages"]["torch"] == torch.__version__


def interrupted(folder: Path, step: int, *overrides: str) -> Path:
    """A run that Ctrl-C ended after a step; what is kept of it."""
    from upslope.launch import train_recipe

    given = read({**deaths.RECIPE, "runs": str(folder)}, overrides)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(given, silent, watches=[Interrupt(step)])
    return folder / "killed"


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9, 13])
def test_every_place_of_an_epoch_a_stage_and_a_checkpoint(
    whole: Run, tmp_path: Path, step: int
) -> None:
    """Before the first checkpoint, within an epoch, at its end, at a stage's end, at the last."""
    interrupted(tmp_path, step)
    same(resume(tmp_path), whole)


def test_twice_resumed(whole: Run, tmp_path: Path) -> None:
    interrupted(tmp_path, 8)
    given = read({**deaths.RECIPE, "runs": str(tmp_path)})
    with pytest.raises(KeyboardInterrupt):
        resume_recipe(given, silent, watches=[Interrupt(10)])
    same(resume(tmp_path), whole)


def test_a_stale_run_is_exact_in_data(tmp_path: Path) -> None:
    stale = ("stage.rl.rollout.max_staleness=2", "stage.rl.source.retire=0.0")
    deaths.train(tmp_path / "whole", *stale)
    interrupted(tmp_path / "killed", 10, *stale)
    run, other = Run.open(tmp_path / "whole/killed"), resume(tmp_path / "killed", *stale)
    plays = [
        [
            (t["step"], t["problem"], t["visit"], t["member"])
            for t in r.trajectories()
            if t["stage"] == "rl"
        ]
        for r in (run, other)
    ]
    assert plays[0] == plays[1]
    assert len({play[1:] for play in plays[1]}) == len(plays[1]) == 8 * 16


def test_a_changed_recipe_is_refused_or_allowed_by_name(tmp_path: Path) -> None:
    interrupted(tmp_path, 7)
    with pytest.raises(UserError, match=r"stage.rl.learner.lr differs .* --allow stage.rl.learner"):
        resume(tmp_path, "stage.rl.learner.lr=1e-4")
    with pytest.raises(UserError, match="model differs from the run's and cannot change"):
        resume(tmp_path, "model=ladder:0.6m", allow=["model"])
    with pytest.raises(
        UserError, match=r"stage\.sft\.stop\.steps cannot change any more: stage sft"
    ):
        resume(tmp_path, "stage.sft.stop.steps=9", allow=["stage.sft"])
    with pytest.raises(UserError, match="seed differs"):
        resume(tmp_path, "seed=1", allow=["seeds"])
    run = resume(tmp_path, "stage.rl.learner.lr=1e-4", allow=["stage.rl.learner"])
    assert read(run.path / "recipe.toml").stages()[1].learner.lr == 1e-4
    (row,) = map(json.loads, (run.path / "resumed.jsonl").read_text().splitlines())
    assert row["changed"] == ["stage.rl.learner.lr"]
    assert row["step"] == 6


class Asks:
    """Asks once for weights of a step."""

    def see(self, stage: str, step: int, groups: object, metrics: Metrics) -> Sequence[Action]:
        return (1,) if groups and step == 2 else ()


def digits(folder: Path, *overrides: str, resumed: bool) -> Run:
    """One-token answers, with a checkpoint of every step."""
    few = {"rollout": {"problems": 1, "group": 2, "max_tokens": 1}, "evaluation": {"problems": 1}}
    recipe = {**DIGITS, **few, "runs": str(folder), "checkpoint": {"every": 1, "keep": 9}}
    given = read(recipe, overrides)
    if not resumed:
        return train_recipe(given, silent)
    return resume_recipe(given, silent, watches=[Asks()], allow=["stop.steps", "algorithm"])


def test_another_algorithms_state_begins_where_nothing_is_kept_of_it(tmp_path: Path) -> None:
    """In a resumed run, and again where it goes back to before it was resumed."""
    digits(tmp_path, "stop.steps=1", resumed=False)
    other = 'algorithm={type="constrained",of={type="reinforce",entropy={target=1.0}}}'
    cost = "algorithm.costs.length.budget=0.5"
    run = digits(tmp_path, other, cost, "stop.steps=4", resumed=True)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 4]  # 3 is version 1's weights
    assert [row.get("constraint/length/multiplier") for row in rows] == [None, 0.0, 0.0]
    state = read_checkpoint(run.latest() or tmp_path)[0].place.state
    assert {"baseline", "coefficient", "constraint/length/of/baseline"} <= {*state}


def test_weights_that_a_run_has_not_are_not_made_up() -> None:
    def refused(before: str, now: str) -> str:
        recipes = (read(DIGITS, [f"algorithm={table}"]) for table in (before, now))
        with pytest.raises(UserError, match="set algorithm back, or train without --resume") as no:
            refuse_other_weights(*recipes, "train")
        return str(no.value)

    kl, ppo = '{type="rloo",kl={coefficient=0.1}}', '{type="ppo"}'
    assert "the policy that stage train began with" in refused('{type="grpo"}', kl)
    assert "another critic than stage train has trained" in refused('{type="grpo"}', ppo)
    assert "another critic than" in refused(ppo, '{type="ppo",critic={twin=true}}')
    assert "another critic than" in refused(ppo, '{type="grpo"}')  # whose optimiser has its moments
    fine = [read(DIGITS, [f"algorithm={table}"]) for table in (kl, '{type="grpo"}')]
    refuse_other_weights(*fine, "train")


def test_a_run_that_ended_goes_on_with_a_higher_bound(tmp_path: Path) -> None:
    deaths.train(tmp_path, "stage.rl.stop.steps=4")
    with pytest.raises(UserError, match="came to its end: train without --resume"):
        resume(tmp_path, "stage.rl.stop.steps=4")
    run = resume(tmp_path, "stage.rl.stop.steps=8", allow=["stage.rl.stop.steps"])
    result = run.result()
    assert result is not None
    assert (result.steps, result.stopped_by) == (13, "steps")
    assert [row["step"] for row in run.metrics()] == list(range(1, 14))


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run .* to resume"):
        resume(tmp_path)
    folder = interrupted(tmp_path, 7)
    with Run.resume(folder), pytest.raises(UserError, match="is writing to"):
        resume(tmp_path)
    (checkpoint,) = (folder / "checkpoints").iterdir()
    (checkpoint / "place.json").write_text("{")
    with pytest.raises(UserError, match="is damaged: remove it to resume from the one before it"):
        resume(tmp_path)
    shutil.rmtree(checkpoint)
    assert resume(tmp_path).result() is not None


def test_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    rows = [{"prompt": f"{i}+1=", "reply": str(i + 1)} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = f'stage.sft.source.path="{path}"'
    interrupted(tmp_path, 4, own)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(UserError, match="recorded replies are not those that the run was begun"):
        resume(tmp_path, own)


def test_the_newest_of_several_runs_is_resumed(tmp_path: Path) -> None:
    for n in (2, 10, 9):
        folder = tmp_path / f"killed-{n}"
        folder.mkdir()
        (folder / "recipe.toml").touch()
    (tmp_path / "killed-x").mkdir()
    assert Run.newest(tmp_path, "killed").name == "killed-10"
