"""Run directories: what is written is read back, whoever dies, fills the disk or writes as well."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kills import fill, row
from upslope import environment, files
from upslope.result import Accuracy, Estimate, Result, StageResult
from upslope.runs import Run
from upslope.trajectories import COLUMNS, TrajectoryFiles, trajectory_row
from upslope.types import Problem, Reward, Segment, Trajectory, Turn, UserError

ESTIMATE = Estimate(mean=0.5, low=0.4, high=0.6, problems=500)
ACCURACY = Accuracy(sampled=ESTIMATE, greedy=ESTIMATE)
RESULT = Result(
    before=ACCURACY,
    after=ACCURACY,
    flops=1e12,
    seconds=3.5,
    cpu_seconds=7.0,
    peak_memory_bytes=1 << 30,
    steps=40,
    stopped_by="steps",
    stages=(
        StageResult(
            name="train",
            before=ACCURACY,
            after=ACCURACY,
            steps=40,
            flops=1e12,
            seconds=3.5,
            cpu_seconds=7.0,
            stopped_by="steps",
        ),
    ),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "quick", 'model = "m"\n', seed=3, argv=["upslope", "train"])


def killed(case: str, folder: Path) -> list[Path]:
    """The folders that processes killed at every file operation left, and one that lived."""
    path = os.pathsep.join(sys.path)
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), case, str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, timeout=100)
    return sorted(folder.iterdir())


def failing(code: int, after: int = 0) -> Callable[..., Any]:
    """An ``os.write`` that writes ``after`` bytes and then fails."""
    real, state = os.write, [after]

    def write(descriptor: int, data: Any) -> int:
        if not state[0]:
            raise OSError(code, os.strerror(code))
        written = real(descriptor, data[: state[0]])
        state[0] -= written
        return written

    return write


def test_rows_are_read_back_and_non_finite_values_are_counted(run: Run) -> None:
    run.log(1, "train", {"reward/mean": 0.25, "loss": np.float32(0.5)})
    run.log(2, "train", {"reward/mean": float("nan"), "loss": float("-inf")})
    run.log_evaluation(2, "train", ACCURACY.metrics())
    first, second = Run.open(run.path).metrics()
    assert first == {"step": 1, "stage": "train", "reward/mean": 0.25, "loss": 0.5}
    assert (second["reward/mean"], second["loss"], second["run/nonfinite"]) == (None, None, 2)
    (evaluation,) = run.evaluations()
    assert evaluation["evaluation/sampled/low"] == 0.4
    assert evaluation["evaluation/greedy/problems"] == 500.0


def test_a_taken_name_gets_the_next_number(run: Run, tmp_path: Path) -> None:
    second = Run.create(tmp_path, "quick", "", seed=0)
    third = Run.create(tmp_path, "quick", "", seed=0)
    assert (run.name, second.name, third.name) == ("quick", "quick-2", "quick-3")


def test_the_record_of_the_host_has_versions_but_no_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "very-secret-value")
    run = Run.create(tmp_path, "quick", 'model = "m"\n', seed=3, argv=["upslope", "train"])
    text = (run.path / "environment.json").read_text()
    host = json.loads(text)
    assert "very-secret-value" not in text
    assert (host["seed"], host["argv"]) == (3, ["upslope", "train"])
    assert host["packages"]["numpy"] == np.__version__
    assert host["cores_available"] >= 1
    assert (run.path / "recipe.toml").read_text() == 'model = "m"\n'


def test_the_commit_is_that_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.commit() == ""
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    clean = environment.commit()
    assert len(clean) == 40
    (tmp_path / "new").touch()
    assert environment.commit() == f"{clean}-modified"


def test_one_writer_at_a_time(run: Run) -> None:
    with pytest.raises(UserError, match=f"process {os.getpid()} is writing to {run.path}"):
        Run.resume(run.path)
    reader = Run.open(run.path)
    with pytest.raises(RuntimeError, match="opened to read"):
        reader.log(1, "train", {})
    run.close()
    with Run.resume(run.path) as again:
        again.log(1, "train", {})
    assert len(reader.metrics()) == 1


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        Run.open(tmp_path)


def test_a_half_written_row_is_ignored_and_cut_off_on_resume(run: Run) -> None:
    run.log(1, "train", {"loss": 1.0})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    assert [r["step"] for r in run.metrics()] == [1]
    run.close()
    with Run.resume(run.path) as again:
        again.log(2, "train", {"loss": 2.0})
    assert [r["step"] for r in again.metrics()] == [1, 2]


def test_a_damaged_row_is_named(run: Run) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is not JSON"):
        run.metrics()


def test_a_full_disk_loses_nothing_and_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.log(7, "train", {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", failing(errno.ENOSPC, after=10))
        with pytest.raises(UserError) as caught:
            run.log(8, "train", {"loss": 2.0})
    assert str(caught.value) == (
        f"the disk is full: {run.path}/metrics.jsonl could not be written;"
        f" everything up to step 7 is kept in {run.path}"
    )
    run.log(8, "train", {"loss": 2.0})
    assert [r["step"] for r in run.metrics()] == [7, 8]


def test_a_file_is_replaced_whole_or_not_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_curve("<svg>old</svg>")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", failing(errno.EACCES, after=4))
        with pytest.raises(UserError, match=r"no permission to write .*curve\.svg; everything"):
            run.save_curve("<svg>new</svg>")
    assert (run.path / "curve.svg").read_text() == "<svg>old</svg>"
    assert not list(run.path.glob(".*.new"))


def test_a_checkpoint_that_fails_leaves_the_last_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.checkpoint(10, fill)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "")))
        with pytest.raises(UserError, match=r"the disk is full: .*step-000020"):
            run.checkpoint(20, fill)

    def hidden(_: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(UserError, match=r"the disk is full: .*step-000020 .*; everything up to"):
        run.checkpoint(20, hidden)
    with pytest.raises(ZeroDivisionError):
        run.checkpoint(20, lambda _: 1 // 0)
    assert run.latest() == run.path / "checkpoints" / "step-000010"
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-000010"]


def test_the_newest_checkpoints_are_kept(run: Run) -> None:
    assert run.latest() is None
    for step in (10, 20, 999_999, 1_000_000):
        run.checkpoint(step, fill, keep=2)
    assert run.latest() == run.path / "checkpoints" / "step-1000000"
    names = sorted(p.name for p in (run.path / "checkpoints").iterdir())
    assert names == ["step-1000000", "step-999999"]


def test_a_complete_checkpoint_and_model_outlive_a_kill_at_any_instant(tmp_path: Path) -> None:
    folders = killed("checkpoints", tmp_path)
    assert len(folders) > 20
    for folder in folders:
        latest = Run.open(folder / "run").latest()
        assert latest is not None, folder
        with Run.resume(folder / "run") as run:
            for whole in (latest, run.path / "model"):
                assert (whole / "a").read_text() == (whole / "deep" / "b").read_text() == "whole"
            assert len(run.metrics()) <= 1
            run.checkpoint(3, fill)
            run.save_model(fill)
        left = [p.name for p in run.path.rglob("*") if p.name.endswith((".new", ".old", ".gone"))]
        assert left == []
        assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-000003"]


def test_trajectories_are_neither_lost_nor_doubled_by_a_kill_at_any_instant(tmp_path: Path) -> None:
    folders = killed("trajectories", tmp_path)
    assert len(folders) > 6
    for folder in folders:
        store = TrajectoryFiles(folder / "trajectories", rows_in_part=4)
        ids = [r["id"] for r in store.read()]
        assert ids in (["0", "1", "2"], ["0", "1", "2", "3"], ["0", "1", "2", "3", "4"]), folder
        store.recover()
        assert [r["id"] for r in store.read()] == ids
        store.append([row("next")])
        store.compact()
        assert [r["id"] for r in store.read()] == [*ids, "next"]
        assert (folder / "trajectories" / "tail.jsonl").read_bytes() == b""


def test_rows_with_equal_ids_are_all_kept(tmp_path: Path) -> None:
    store = TrajectoryFiles(tmp_path / "trajectories", rows_in_part=2)
    store.append([row("a", "one"), row("b", "two")])
    store.append([row("a", "three")])
    assert [r["text"] for r in store.read()] == ["one", "two", "three"]


def played(reward: Reward | None, text: str = "4") -> Trajectory:
    segment = Segment(
        tokens=np.array([1, 2, 3]),
        trained=np.array([False, True, True]),
        engine_logprobs=np.array([0.0, -1.0, -2.0]),
        versions=np.array([-1, 5, 4]),
    )
    messages = ({"role": "user", "content": "2+2"}, {"role": "assistant", "content": text})
    problem = Problem(id="add/2+2", messages=messages[:1])
    turns = (Turn(0, 1, 3, "length"),)
    return Trajectory(problem, 1, 3, (segment,), turns, messages, reward)


def test_a_trajectory_survives_tail_and_part(run: Run) -> None:
    reward = Reward(1.0, {"correct": 1.0}, {"time": 0.5}, reason="exact")
    rows = [
        trajectory_row(6, "rl", played(reward)),
        trajectory_row(7, "rl", played(None, text="half \ud83d of a pair")),
        trajectory_row(8, "rl", played(Reward(float("nan"), valid=False))),
    ]
    assert rows[0]["id"] == "6/rl/add/2+2/1/3"
    assert (rows[0]["tokens"], rows[0]["version"], rows[0]["stop"]) == (2, 4, "length")
    assert set(rows[0]) == set(COLUMNS)
    run.log_trajectories(rows)
    from_tail = run.trajectories()
    assert from_tail[0] == rows[0]
    assert from_tail[2]["reward"] is None
    run.finish(RESULT)
    assert Run.open(run.path).trajectories() == from_tail
    assert (run.path / "trajectories" / "part-00001.parquet").exists()


def test_a_row_says_whether_words_were_put_in() -> None:
    whole = played(Reward(1.0))
    stopped = replace(whole.turns[0], stop=2, stop_reason="interrupted")
    cut = replace(whole, turns=(stopped, Turn(0, 2, 3, "stop")))
    rows = [trajectory_row(6, "rl", one) for one in (whole, cut)]
    assert [row["interrupted"] for row in rows] == [False, True]


def test_trajectories_of_before_a_column_are_read_and_gone_on_with(run: Run) -> None:
    """The columns of an older version, in a part and in the tail."""
    rows = [trajectory_row(step, "rl", played(Reward(1.0))) for step in range(4)]
    folder = run.path / "trajectories"
    TrajectoryFiles(folder, rows_in_part=2).append(rows[:2])
    (part,) = folder.glob("part-*.parquet")
    pq.write_table(pq.read_table(part).drop_columns(["interrupted"]), part)
    old = {name: value for name, value in rows[2].items() if name != "interrupted"}
    (folder / "tail.jsonl").write_text(json.dumps(old) + "\n")
    store = TrajectoryFiles(folder)
    store.recover()
    want = [row | {"interrupted": None} for row in rows[:3]]
    assert store.read() == want
    store.append(rows[3:])
    store.compact()
    assert store.read() == [*want, rows[3]]
    store.cut(3)
    assert store.read() == want


def test_the_result_is_read_back_and_has_exactly_its_keys(run: Run) -> None:
    assert run.result() is None
    run.finish(RESULT)
    assert run.result() == RESULT
    written = json.loads((run.path / "result.json").read_text())
    assert " ".join(written) == (
        "before after flops seconds cpu_seconds peak_memory_bytes steps stopped_by stages"
    )
    assert written["before"]["sampled"] == {"mean": 0.5, "low": 0.4, "high": 0.6, "problems": 500}
    (run.path / "result.json").write_text("{}")
    with pytest.raises(UserError, match="is not a result"):
        run.result()
