"""A run's directory: what is in it, who may write to it, and how it is read back.

It stores what it is given. Numbers are computed by the loop, weights written by the callables that
it is handed; a writer holds the directory's lock, readers need none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from upslope.environment import environment
from upslope.files import (
    Lock,
    append_rows,
    drop_half_row,
    explained,
    finite,
    keep_rows,
    mend,
    read_rows,
    remove_folder,
    replace_file,
    replace_folder,
)
from upslope.result import Result
from upslope.trajectories import TrajectoryFiles
from upslope.types import UserError

ROWS = ("metrics.jsonl", "evaluations.jsonl", "tests.jsonl")


class Run:
    """One directory. Made by ``create`` or ``resume`` to write to, by ``open`` to read from.

    ``rows``: how many rows each file has that grows, as this writer counts them.
    """

    def __init__(self, path: Path, lock: Lock | None) -> None:
        """Use ``create``, ``resume`` or ``open``."""
        self.path = path
        self._lock = lock
        self._trajectories = TrajectoryFiles(path / "trajectories")
        self._step = 0
        self.rows = dict.fromkeys((*ROWS, "trajectories"), 0)

    @classmethod
    def create(
        cls, folder: str | Path, name: str, recipe: str, seed: int, argv: Sequence[str] = ()
    ) -> Run:
        """A new directory ``folder/name``, or the next free ``name-2``, ``name-3``, ...

        ``recipe`` is the resolved recipe as TOML, ``argv`` the command that started the run.
        """
        path = Path(folder) / name
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path = _claim(path)
            run = cls(path, Lock(path / ".lock"))
            replace_file(path / "recipe.toml", recipe.encode())
            replace_file(path / "environment.json", _json(environment(seed, argv)))
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run to read from, also while another process writes to it."""
        path = Path(path)
        if not (path / "recipe.toml").is_file():
            raise UserError(f"there is no run in {path}: it has no recipe.toml")
        return cls(path, None)

    @classmethod
    def newest(cls, folder: str | Path, name: str) -> Run:
        """The run that was begun last among ``name``, ``name-2``, ``name-3``, ..., to read from."""
        found = [p for p in Path(folder).glob(f"{name}*") if (p / "recipe.toml").is_file()]
        numbers = {p: re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", p.name) for p in found}
        runs = {path: int(match[1] or 1) for path, match in numbers.items() if match}
        if not runs:
            raise UserError(
                f"there is no run {Path(folder) / name} to resume: train without --resume first"
            )
        return cls.open(max(runs, key=runs.__getitem__))

    @classmethod
    def resume(cls, path: str | Path) -> Run:
        """A run to go on writing to, put right after whatever ended it."""
        run = cls.open(path)
        with explained(run.path):
            run._lock = Lock(run.path / ".lock")
            for folder in (run.path, run.path / "checkpoints", run.path / "trajectories"):
                mend(folder)
            for file in ROWS:
                drop_half_row(run.path / file)
            run._trajectories.recover()
        run._step = max((row["step"] for row in run.metrics()), default=0)
        return run

    def rewind(self, rows: Mapping[str, int], recipe: str, environment: Mapping[str, Any]) -> None:
        """Forget what was written after a checkpoint, whose counts of ``rows`` these are.

        ``recipe`` replaces the run's own; ``environment``, which says its ``step``, becomes a row
        of ``resumed.jsonl``.
        """
        with self._writing("recipe.toml"):
            for file in ROWS:
                keep_rows(self.path / file, rows.get(file, 0))
            self._trajectories.cut(rows.get("trajectories", 0))
            (self.path / "result.json").unlink(missing_ok=True)
            for later in (self.path / "best").glob("*/step-*"):
                if int(later.name.removeprefix("step-")) > environment["step"]:
                    remove_folder(later)
            replace_file(self.path / "recipe.toml", recipe.encode())
            append_rows(self.path / "resumed.jsonl", [environment])
        self.rows = {name: rows.get(name, 0) for name in self.rows}
        self._step = max((row["step"] for row in self.metrics()), default=0)

    @property
    def name(self) -> str:
        """The directory's name, which differs from the recipe's where that was taken."""
        return self.path.name

    def log(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Append a row to ``metrics.jsonl``; non-finite values become null and are counted."""
        self._append("metrics.jsonl", step, stage, metrics)
        self._step = step

    def log_evaluation(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Append a row to ``evaluations.jsonl``: ``Accuracy.metrics`` and the ledger's row."""
        self._append("evaluations.jsonl", step, stage, metrics)

    def log_test(self, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Append a row to ``tests.jsonl``, which counts the looks at a test split kept apart."""
        self._append("tests.jsonl", step, stage, metrics)

    def log_trajectories(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows of ``trajectories.trajectory_row``."""
        with self._writing("trajectories"):
            self._trajectories.append(rows)
        self.rows["trajectories"] += len(rows)

    def checkpoint(self, step: int, write: Callable[[Path], None], keep: int = 1) -> Path:
        """Have ``write`` fill ``checkpoints/step-000040``, then remove all but the ``keep`` newest.

        A step that has a checkpoint keeps it. Until the new one is whole and on disk the old ones
        stay, so a complete one exists at every instant after the first.
        """
        path = self.path / "checkpoints" / f"step-{step:06d}"
        with self._writing(f"checkpoints/{path.name}"):
            if not path.exists():
                replace_folder(path, write)
            for old in self._checkpoints()[:-keep]:
                remove_folder(old)
            for stage in (self.path / "best").glob("*"):
                for old in sorted(stage.glob("step-*"))[:-1]:
                    remove_folder(old)
        return path

    def latest(self, most: int | None = None) -> Path | None:
        """The newest complete checkpoint, or the newest of at most the step ``most``."""
        kept = [p for p in self._checkpoints() if most is None or int(p.name[5:]) <= most]
        return kept[-1] if kept else None

    def save_model(self, write: Callable[[Path], None]) -> Path:
        """Have ``write`` fill the final Hugging Face folder ``model``."""
        with self._writing("model"):
            replace_folder(self.path / "model", write)
        return self.path / "model"

    def save_adapter(self, write: Callable[[Path], None]) -> Path:
        """Have ``write`` fill ``adapter``, what was trained beside the model's own weights."""
        with self._writing("adapter"):
            replace_folder(self.path / "adapter", write)
        return self.path / "adapter"

    def best(self, stage: str) -> Path:
        """Where a stage keeps the weights that did best on validation: the last to be saved."""
        folder = self.path / "best" / stage
        return max(folder.glob("step-*"), default=folder)

    def save_best(self, stage: str, step: int, write: Callable[[Path], None]) -> None:
        """Have ``write`` fill the folder of a stage's best weights. Those before stay until there
        is a checkpoint after these: a run resumed from an older one needs them."""
        with self._writing(f"best/{stage}"):
            replace_folder(self.path / "best" / stage / f"step-{step:06d}", write)

    def reference(self, stage: str) -> Path:
        """Where a stage keeps the policy that its KL penalty compares with."""
        return self.path / "references" / stage

    def reward(self, stage: str) -> Path:
        """Where a stage's reward keeps what it has made, such as a reward model."""
        return self.path / "rewards" / stage

    def save_reference(self, stage: str, write: Callable[[Path], None]) -> Path:
        """Have ``write`` fill the folder of a stage's reference policy."""
        with self._writing(f"references/{stage}"):
            replace_folder(self.reference(stage), write)
        return self.reference(stage)

    def save_curve(self, svg: str) -> Path:
        """Write ``curve.svg``."""
        with self._writing("curve.svg"):
            replace_file(self.path / "curve.svg", svg.encode())
        return self.path / "curve.svg"

    def finish(self, result: Result) -> None:
        """Write ``result.json``, which says that the run came to its end."""
        with self._writing("trajectories"):
            self._trajectories.compact()
        with self._writing("result.json"):
            replace_file(self.path / "result.json", _json(result.model_dump()))

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of ``metrics.jsonl``."""
        return read_rows(self.path / "metrics.jsonl")

    def evaluations(self) -> list[dict[str, Any]]:
        """All rows of ``evaluations.jsonl``."""
        return read_rows(self.path / "evaluations.jsonl")

    def tests(self) -> list[dict[str, Any]]:
        """All rows of ``tests.jsonl``."""
        return read_rows(self.path / "tests.jsonl")

    def trajectories(self, stage: str | None = None) -> list[dict[str, Any]]:
        """All rows of ``trajectories``, oldest first, or those of one ``stage`` alone."""
        return self._trajectories.read(stage)

    def result(self) -> Result | None:
        """The contents of ``result.json``; None before the end."""
        path = self.path / "result.json"
        if not path.exists():
            return None
        try:
            return Result.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise UserError(f"{path} is not a result: the file was damaged") from error

    def close(self) -> None:
        """Let another process write."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first: those being written have hidden names."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def _append(self, file: str, step: int, stage: str, metrics: Mapping[str, float]) -> None:
        row, nonfinite = finite({"step": step, "stage": stage, **metrics})
        if nonfinite:
            row["run/nonfinite"] = nonfinite
        with self._writing(file):
            append_rows(self.path / file, [row])
        self.rows[file] += 1

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Refuse readers, and explain a failed write of ``name``."""
        if self._lock is None:
            raise RuntimeError(f"{self.path} was opened to read from")
        kept = f"everything up to step {self._step} is kept in {self.path}"
        with explained(self.path / name, kept):
            yield


def _claim(path: Path) -> Path:
    """Make the directory, under the first free of its name, name-2, name-3, ..."""
    free, n = path, 1
    while True:
        try:
            free.mkdir()
        except FileExistsError:
            n += 1
            free = path.with_name(f"{path.name}-{n}")
        else:
            return free


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
