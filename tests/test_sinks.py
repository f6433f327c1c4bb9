"""Sinks get every finite number under its own name; what befalls them never reaches the run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from plays import group_of
from upslope import sinks
from upslope.launch import train_recipe
from upslope.recipe import read
from upslope.runs import Run
from upslope.sinks import Feed, feeding, require
from upslope.types import Metrics, Reward, UserError

GROUPS = [group_of([Reward(1.0)])]


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Metrics]] = []
        self.closed = 0

    def log(self, step: int, metrics: Metrics) -> None:
        assert not self.closed
        self.rows.append((step, metrics))

    def close(self) -> None:
        self.closed += 1


class Raising(Kept):
    """Has no room left."""

    def log(self, step: int, metrics: Metrics) -> None:
        raise OSError(28, "No space left on device")


class Unfinished(Kept):
    def close(self) -> None:
        raise ConnectionError("the server is gone")


class Hanging(Kept):
    """Never comes back until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def log(self, step: int, metrics: Metrics) -> None:
        self.free.wait(60)


def fed(sink: Kept, rows: int = 3, most: int = 100, seconds: float = 5.0) -> Feed:
    """A feed after some rows and its end."""
    feed = Feed("wandb", lambda step: sink, most)
    for step in range(rows):
        assert feed.see("train", step, GROUPS, {"reward/mean": float(step)}) == ()
    feed.ending()
    feed.join(seconds)
    return feed


def test_rows_arrive_in_order_and_the_sink_is_closed_once() -> None:
    sink = Kept()
    assert not fed(sink, 50).failed
    assert sink.rows == [(step, {"reward/mean": float(step)}) for step in range(50)]
    assert sink.closed == 1


def test_it_is_opened_with_the_first_rows_step_and_gets_finite_numbers_alone() -> None:
    opened: list[int] = []
    sink = Kept()

    def make(step: int) -> Kept:
        opened.append(step)
        return sink

    feed = Feed("wandb", make)
    feed.see("train", 7, (), {"a/b": 1.0, "a/c": float("nan"), "a/d": float("inf")})
    feed.ending()
    feed.join(5)
    assert (opened, sink.rows) == ([7], [(7, {"a/b": 1.0})])


@pytest.mark.parametrize(
    ("sink", "why"),
    [
        (Raising(), "OSError: [Errno 28] No space left on device"),
        (Unfinished(), "ConnectionError: the server is gone"),
    ],
)
def test_a_sink_that_raises_is_said_once(
    sink: Kept, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    feed = fed(sink)
    assert feed.failed
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"upslope: the sink wandb gets no more metrics ({why}); the run goes on")
    feed.see("train", 9, GROUPS, {"reward/mean": 1.0})
    assert capsys.readouterr().err == ""


def test_a_sink_that_cannot_be_opened_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def make(step: int) -> Kept:
        raise ValueError("no such project")

    feed = Feed("trackio", make)
    feed.see("train", 0, (), {})
    feed.ending()
    feed.join(5)
    assert "sink trackio gets no more metrics (ValueError: no such project)" in (
        capsys.readouterr().err
    )


def test_a_sink_that_hangs_is_neither_waited_for_nor_filled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sink = Hanging()
    assert fed(sink, rows=20, most=4).failed
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "(4 rows are waiting for it)" in said
    sink.free.set()
    sink = Hanging()
    assert fed(sink, rows=2, seconds=0.01).failed
    assert "(it did not end within 0.01 s)" in capsys.readouterr().err
    sink.free.set()


def trained(folder: Path, *names: str) -> Run:
    recipe: dict[str, Any] = {
        "model": "ladder:0.1m",
        "runs": str(folder),
        "sinks": list(names),
        "env": {"type": f"{Path(__file__).with_name('plays.py')}:Digits"},
        "algorithm": {"type": "grpo"},
        "rollout": {"problems": 2, "group": 4, "max_tokens": 1},
        "evaluation": {"problems": 2},
        "stop": {"steps": 3},
        "machine": {"threads": 1},
        "check": {"enabled": False},
    }
    return train_recipe(read(recipe), lambda line: None)


def numbers(run: Run) -> list[Mapping[str, Any]]:
    """All metrics but what takes time."""
    rows = [*run.metrics(), *run.evaluations()]
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def test_a_run_is_the_same_with_sinks_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hanging, kept = Hanging(), Kept()
    fakes = {"wandb": Raising(), "trackio": hanging, "tensorboard": kept}
    for name, sink in fakes.items():
        monkeypatch.setitem(sinks.SINKS, name, lambda *given, sink=sink: sink)
    monkeypatch.setattr(sinks, "CLOSING", 0.01)
    monkeypatch.setattr(sinks, "find_spec", lambda name: name)
    plain, fed = trained(tmp_path), trained(tmp_path, *fakes)
    assert numbers(plain) == numbers(fed)
    assert fed.result() is not None
    said = capsys.readouterr().err
    assert "sink wandb" in said
    assert "sink trackio" in said
    hanging.free.set()
    # What arrived is what the run's own files have, evaluations after their steps.
    *steps, before, after = numbers(fed)
    for (step, metrics), row in zip(kept.rows, [before, *steps, after], strict=True):
        assert step == row["step"]
        seen = {name: value for name, value in metrics.items() if "seconds" not in name}
        assert seen == {name: row[name] for name in seen}
    assert kept.closed == 1


def test_sinks_are_closed_when_the_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    monkeypatch.setitem(sinks.SINKS, "wandb", lambda *given: kept)

    def fail() -> None:
        with feeding(["wandb"], tmp_path, {}) as (feed,):
            feed.see("train", 0, (), {"a/b": 1.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (len(kept.rows), kept.closed) == (1, 1)


def test_a_missing_library_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="sinks names wandb, which is not installed: pip install"):
        require(["wandb"])
    with pytest.raises(UserError, match=r"sinks.0 must be one of"):
        read({"model": "m", "sinks": ["mlflow"]})


# The libraries themselves, where they are installed.

FEEDING = """
import sys
from pathlib import Path
from upslope.sinks import feeding
with feeding([sys.argv[1]], Path(sys.argv[2]), {"name": "x", "rollout": {"group": 4}}) as feeds:
    for step, metrics in ((0, {"evaluation/sampled/mean": 0.25}), (1, {"reward/mean": 0.5}),
                          (2, {"reward/mean": 0.75}), (2, {"evaluation/sampled/mean": 1.0})):
        feeds[0].see("train", step, (), metrics)
print("failed", feeds[0].failed)
"""
WANTED = [
    ("evaluation/sampled/mean", 0, 0.25),
    ("evaluation/sampled/mean", 2, 1.0),
    ("reward/mean", 1, 0.5),
    ("reward/mean", 2, 0.75),
]


def real(name: str, folder: Path) -> None:
    """Feed a real library, in a process of its own and a home without accounts."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    keep = {k: os.environ[k] for k in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if k in os.environ}
    home = {"HOME": str(folder), "TRACKIO_DIR": str(folder / "trackio"), "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", FEEDING, name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=keep | home)
    assert done.returncode == 0, done.stderr
    assert "failed False" in done.stdout, done.stderr


def test_tensorboard_reads_it_back(tmp_path: Path) -> None:
    with feeding(["tensorboard"], tmp_path, {}) as (feed,):
        for name, step, value in sorted(WANTED, key=lambda row: row[1]):
            feed.see("train", step, (), {name: value})
    assert not feed.failed
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    seen = [(n, e.step, e.value) for n in events.Tags()["scalars"] for e in events.Scalars(n)]
    assert sorted(seen) == WANTED


def test_trackio_has_it_in_its_database(tmp_path: Path) -> None:
    real("trackio", tmp_path)
    rows = sqlite3.connect(tmp_path / "trackio" / "upslope.db").execute(
        "select step, metrics from metrics"
    )
    seen = [(name, step, value) for step, row in rows for name, value in json.loads(row).items()]
    assert sorted(seen) == WANTED


def test_wandb_has_it_in_its_offline_run(tmp_path: Path) -> None:
    real("wandb", tmp_path)
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = path.read_bytes()
    assert data.count(b"reward/mean") >= 2
    assert data.count(b"evaluation/sampled/mean") >= 2
