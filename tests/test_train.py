"""Whole runs of a tiny model: complete on disk, repeatable, bounded, interruptible, learning."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import upslope.files
from records import untimed
from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch
from upslope.checkpoints import read_checkpoint
from upslope.curriculum import Curriculum
from upslope.launch import train_recipe
from upslope.learner import Learner
from upslope.recipe import read
from upslope.runs import Run
from upslope.session import Session
from upslope.types import Action, Group, Metrics, UserError, Watch

BANDIT = f"{Path(__file__).with_name('plays.py')}:Digits"
BASE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "machine": {"threads": 1, "price_per_hour": 2.0},
    "check": {"enabled": False},
    "evaluation": {"problems": 4},
}
STAGES: Mapping[str, Any] = {
    **BASE,
    "name": "tiny",
    "check": {"problems": 2},
    "env": {"type": "arithmetic", "digits": 1, "wrong": 0.3},
    "rollout": {"problems": 4, "group": 4, "max_tokens": 4},
    "learner": {"lr": 1e-3},
    "evaluation": {"problems": 8, "every": 4},
    "checkpoint": {"every": 2},
    "stage": [
        {
            "name": "sft",
            "algorithm": {"type": "sft"},
            "source": {"type": "recorded"},
            "stop": {"steps": 6},
        },
        {"name": "rl", "algorithm": {"type": "grpo"}, "stop": {"steps": 4}},
    ],
}
# One sampled token, of which a tenth is right: signal from the first step on.
DIGITS: Mapping[str, Any] = {
    **BASE,
    "name": "digits",
    "env": {"type": BANDIT},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 4, "group": 16, "max_tokens": 1},
    "learner": {"lr": 3e-3},
    "stop": {"steps": 3},
}


def silent(line: str) -> None:
    """Says nothing."""


def trained(
    folder: Path,
    recipe: Mapping[str, Any] = DIGITS,
    *overrides: str,
    watches: Sequence[Watch] = (),
) -> Run:
    chosen = read({**recipe, "runs": str(folder)}, overrides)
    return train_recipe(chosen, silent, watches=watches)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs"), STAGES)


def test_a_run_is_complete_on_disk(run: Run) -> None:
    recipe = tomllib.loads((run.path / "recipe.toml").read_text())
    assert recipe["learner"]["micro_tokens"] > 0
    assert read(run.path / "recipe.toml").stages() == read(recipe).stages()
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["seed"] == 0
    rows = run.metrics()
    assert [(r["step"], r["stage"]) for r in rows] == [
        (step, "sft" if step <= 6 else "rl") for step in range(1, 11)
    ]
    seen = [(r["step"], r["stage"]) for r in run.evaluations()]
    assert seen == [(0, "sft"), (4, "sft"), (6, "sft"), (6, "rl"), (10, "rl")]
    curve = ElementTree.parse(run.path / "curve.svg").getroot()
    assert curve.tag == "{http://www.w3.org/2000/svg}svg"
    trajectories = run.trajectories()
    assert sum(t["stage"] == "rl" for t in trajectories) == 4 * 16
    assert sum(t["stage"] == "rl/evaluation" for t in trajectories) == 2 * 8 * 2
    assert len({t["id"] for t in trajectories}) == len(trajectories)


def test_the_result_says_what_changed(run: Run) -> None:
    result = json.loads((run.path / "result.json").read_text())
    assert list(result) == [
        *("before", "after", "flops", "seconds", "cpu_seconds", "peak_memory_bytes", "steps"),
        *("stopped_by", "stages"),
    ]
    assert list(result["before"]) == ["sampled", "greedy"]
    assert list(result["after"]["greedy"]) == ["mean", "low", "high", "problems"]
    assert (result["steps"], result["stopped_by"]) == (10, "steps")
    assert [(s["name"], s["steps"]) for s in result["stages"]] == [("sft", 6), ("rl", 4)]
    assert result["before"] == result["stages"][1]["before"] == result["stages"][0]["after"]
    last = run.evaluations()[-1]
    assert result["after"]["sampled"]["mean"] == last["evaluation/sampled/mean"]
    row = run.metrics()[-1]
    evaluated = last["ledger/flops/evaluation"] - row["ledger/flops/evaluation"]
    assert result["flops"] == last["ledger/flops"]
    assert result["flops"] == pytest.approx(row["ledger/flops"] + evaluated, rel=1e-9)
    flops = sum(stage["flops"] for stage in result["stages"])
    assert flops + last["ledger/flops/check"] == pytest.approx(result["flops"])


def test_the_model_serves_elsewhere(run: Run) -> None:
    model = AutoModelForCausalLM.from_pretrained(run.path / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.path / "model")
    kept, state = read_checkpoint(run.path / "checkpoints" / "step-000010")
    place = kept.place
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-000010"]
    assert (kept.stage, place.step, place.first, place.stopped) == ("rl", 10, 6, "steps")
    assert kept.source["curriculum"]["places"] == {"": 16}
    assert (kept.source["again"], kept.source["dropped"], kept.source["refused"]) == ([], 0, 0)
    assert state["done"] == 4
    last = AutoModelForCausalLM.from_pretrained(run.path / "checkpoints/step-000010/model")
    for ours, theirs in zip(model.parameters(), last.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    # greedy answers of the saved folder are those of the last evaluation
    answers = [t for t in run.trajectories() if t["id"].endswith("/greedy") and t["step"] == 10]
    for answer in answers:
        prompt = tokenizer(answer["problem"], return_tensors="pt")
        out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
        said = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said == answer["text"]


def test_every_row_is_on_policy_and_without_drift(run: Run) -> None:
    for row in run.metrics():
        assert row["ratio/first"] == 1.0
        if row["stage"] == "rl":
            assert row["drift/max"] < 1e-4
            assert row["staleness/max"] == 0
    spent = [row["ledger/flops"] for row in run.metrics()]
    assert spent == sorted(spent)


def test_supervised_steps_lower_the_surprise(run: Run) -> None:
    surprise = [r["policy/surprise"] for r in run.metrics() if r["stage"] == "sft"]
    assert surprise[-1] < surprise[0] - 0.5


def test_the_same_seed_gives_the_same_run(run: Run, tmp_path: Path) -> None:
    again = trained(tmp_path, STAGES)
    assert untimed(again.metrics()) == untimed(run.metrics())
    assert untimed(again.evaluations()) == untimed(run.evaluations())
    assert [t["text"] for t in again.trajectories()] == [t["text"] for t in run.trajectories()]
    short = ("stage.sft.stop.steps=1", "stage.rl.stop.steps=1", "seed=1")
    other = trained(tmp_path, STAGES, *short)
    assert other.evaluations()[0] != run.evaluations()[0]
    assert other.metrics()[0]["policy/surprise"] != run.metrics()[0]["policy/surprise"]
    assert other.path.name == "tiny-2"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("algorithm", ["grpo", "reinforce"])
def test_it_learns(tmp_path: Path, algorithm: str, seed: int) -> None:
    run = trained(tmp_path, DIGITS, "stop.steps=24", f"seed={seed}", f"algorithm.type={algorithm}")
    rewards = [row["reward/mean"] for row in run.metrics()]
    assert rewards[0] < 0.25
    assert sum(rewards[-3:]) / 3 > 0.9
    result = run.result()
    assert result is not None
    assert result.before.sampled.problems == 2  # the env has no more held-out problems
    assert result.after.greedy.mean == 1.0


@pytest.mark.parametrize("correction", ["decoupled", "bypass"])
@pytest.mark.parametrize("k", [1, 2])
def test_stale_runs_keep_their_bound_and_learn(tmp_path: Path, k: int, correction: str) -> None:
    run = trained(
        tmp_path,
        DIGITS,
        f"rollout.max_staleness={k}",
        f"rollout.correction={correction}",
        "stop.steps=10",
    )
    rows = run.metrics()
    stale = [row["staleness/max"] for row in rows]
    assert all(seen <= min(step, k) for step, seen in enumerate(stale))
    assert max(stale) == k
    assert rows[0]["ratio/first"] == pytest.approx(1, abs=1e-5)  # the first groups are fresh
    if correction == "bypass":  # the ratio is that of the policy now to the engine's of then
        assert any(abs(row["ratio/first"] - 1) > 1e-3 for row in rows[k:])
    else:
        assert all(abs(row["ratio/first"] - 1) < 1e-5 for row in rows)
    assert max(row["drift/max"] for row in rows[k:]) > 1e-3  # the engine spoke as it was
    assert rows[-1]["reward/mean"] > rows[0]["reward/mean"] + 0.2


def test_staleness_0_is_the_synchronous_loop_bitwise(tmp_path: Path) -> None:
    """A loop written out by hand: play, update, load, and nothing under way in between."""
    run = trained(tmp_path, DIGITS)
    session = Session(read(DIGITS), silent)
    (one,) = session.stages
    learner = Learner(session.policy, one.stage.learner, lambda *spent: None)
    player, picks = session.player(one), Curriculum(one.problems("train"), seed=0)

    async def step(number: int) -> None:
        await session.engine.load_weights(learner, number)
        chosen = [pick for _ in range(4) if (pick := picks.next())]
        plays = [player.group(problem, visit, 16, 0, "train") for problem, visit in chosen]
        batch = Batch.of(await asyncio.gather(*plays))
        batch = replace(batch, advantages=one.algorithm.advantages(batch))
        learner.update(batch, one.algorithm)

    for number in range(3):
        asyncio.run(step(number))
    model = AutoModelForCausalLM.from_pretrained(run.path / "model")
    for ours, theirs in zip(model.parameters(), session.policy.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_updates_and_epochs_of_a_rollout_batch(tmp_path: Path) -> None:
    run = trained(tmp_path, DIGITS, "learner.updates=2", "learner.epochs=2")
    rows = run.metrics()
    assert [row["ratio/first"] for row in rows] == [1.0] * 3
    assert all(row["ratio/max"] > 1.01 for row in rows)  # later updates are off-policy
    assert all(row["drift/max"] < 1e-4 for row in rows)  # and drift is the first one's
    _, state = read_checkpoint(run.path / "checkpoints" / "step-000003")
    assert state["done"] == 3 * 2 * 2


def test_a_penalty_in_the_loss_and_in_the_reward(tmp_path: Path) -> None:
    heavy = ["algorithm.kl.coefficient=10", "stop.steps=7"]
    free = trained(tmp_path, DIGITS, "algorithm.kl.coefficient=1e-9", "stop.steps=7").metrics()
    for place, kind in (("loss", "k3"), ("reward", "k1")):
        run = trained(
            tmp_path, DIGITS, *heavy, f"algorithm.kl.place={place}", f"algorithm.kl.kind={kind}"
        )
        rows = run.metrics()
        assert rows[-1]["reward/mean"] < free[-1]["reward/mean"] - 0.2
        assert rows[-1]["ledger/flops/reference"] > 0
        if place == "loss":
            assert rows[0]["kl/reference"] == 0  # the reference is where it started
            assert 0 < rows[-1]["kl/reference"] < free[-1]["kl/reference"]


def result_of(run: Run) -> tuple[str, int]:
    result = run.result()
    assert result is not None
    return result.stopped_by, result.steps


def test_bounds(tmp_path: Path) -> None:
    once = trained(tmp_path, DIGITS, "stop.steps=1")
    assert result_of(once) == ("steps", 1)
    flops = 2.5 * once.metrics()[0]["ledger/training_flops"]  # evaluations do not count
    assert result_of(trained(tmp_path, DIGITS, f"stop.flops={flops}", "stop.steps=0")) == (
        "flops",
        3,
    )
    assert result_of(trained(tmp_path, DIGITS, "stop.hours=1e-9")) == ("hours", 1)
    assert result_of(trained(tmp_path, DIGITS, "stop.money=1e-9")) == ("money", 1)


def test_a_target_accuracy_ends_a_run_at_an_evaluation(tmp_path: Path) -> None:
    run = trained(
        tmp_path,
        DIGITS,
        *("stop.steps=40", "stop.accuracy=0.8", "evaluation.every=5", "evaluation.samples=16"),
    )
    stopped, steps = result_of(run)
    accuracies = [r["evaluation/sampled/mean"] for r in run.evaluations()]
    assert stopped == "accuracy"
    assert 0 < steps < 40
    assert steps == 5 * (len(accuracies) - 1)
    assert max(accuracies[:-1]) < 0.8 <= accuracies[-1]
    already = trained(
        tmp_path, DIGITS, f'model="{run.path / "model"}"', "stop.accuracy=0.3", "evaluation.every=1"
    )
    assert result_of(already) == ("accuracy", 0)
    assert already.metrics() == []


class At:
    """A watch that does something after a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        if groups and step == self.step:
            return self.act() or ()
        return ()


def test_a_watch_may_end_a_run(tmp_path: Path) -> None:
    run = trained(tmp_path, DIGITS, watches=[At(2, lambda: ["stop"])])
    assert result_of(run) == ("watch", 2)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("act", [interrupt, lambda: os.kill(os.getpid(), signal.SIGINT)])
def test_ctrl_c_leaves_a_readable_run_without_a_lock(
    tmp_path: Path, act: Any, staleness: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(
            tmp_path,
            DIGITS,
            f"rollout.max_staleness={staleness}",
            "stop.steps=9",
            "checkpoint.every=1",
            watches=[At(2, act)],
        )
    run = Run.open(tmp_path / "digits")
    assert [row["step"] for row in run.metrics()][:2] == [1, 2]
    assert run.result() is None
    kept, _ = read_checkpoint(max((run.path / "checkpoints").iterdir()))
    assert kept.place.step in (1, 2, 3)
    with Run.resume(run.path) as resumed:
        resumed.log(10, "later", {"reward/mean": 1.0})


def test_ctrl_c_from_outside(tmp_path: Path) -> None:
    recipe = {**DIGITS, "runs": str(tmp_path), "stop": {"steps": 100000}}
    code = f"import upslope; upslope.train({recipe!r})"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        metrics = tmp_path / "digits" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
            assert child.poll() is None, child.stderr and child.stderr.read().decode()
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=120)
    finally:
        child.kill()
        child.wait()
    assert child.returncode != 0
    assert said.decode().strip().endswith("KeyboardInterrupt")
    with Run.resume(tmp_path / "digits") as run:
        assert [row["step"] for row in run.metrics()][:2] == [1, 2]


@pytest.mark.parametrize("file", ["metrics.jsonl", "tail.jsonl", "learner.pt", "result.json"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Writes into one file fail from its second on, as they do without room."""
    sound, save, seen = upslope.files._write, torch.save, [0]

    def full(path: str) -> None:
        if file in path:
            seen[0] += 1
            if seen[0] > 1 or file == "result.json":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(descriptor: int, data: bytes) -> None:
        full(os.readlink(f"/proc/self/fd/{descriptor}"))
        sound(descriptor, data)

    def saved(state: Any, path: Path) -> None:
        full(str(path))
        save(state, path)

    monkeypatch.setattr(upslope.files, "_write", write)
    monkeypatch.setattr(torch, "save", saved)
    with pytest.raises(UserError) as caught:
        trained(tmp_path, DIGITS, "checkpoint.every=1", "checkpoint.keep=1")
    said = str(caught.value)
    assert said.startswith("the disk is full: ")
    assert "is kept in" in said
    assert "\n" not in said
    monkeypatch.undo()
    with Run.resume(tmp_path / "digits") as run:
        steps = [row["step"] for row in run.metrics()]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= 1 or file == "tail.jsonl"
        for checkpoint in run.path.glob("checkpoints/*"):
            assert read_checkpoint(checkpoint)[0].place.step in steps


def exploding(self: GRPO, out: Any, batch: Any) -> Any:
    return out.logprobs * math.inf, {}


def test_updates_that_are_not_finite_are_skipped_and_end_the_run_with_a_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GRPO, "loss", exploding)
    with pytest.raises(UserError, match="loss or gradient not finite in 3 updates in a row"):
        trained(tmp_path, DIGITS, "learner.bad_steps=2", "stop.steps=9")
    rows = Run.open(tmp_path / "digits").metrics()
    assert [row["update/skipped"] for row in rows] == [1.0, 2.0]
    assert rows[0]["update/grad_norm"] is None
