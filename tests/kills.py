"""Kills a process at each of its file operations in turn; what is left must be whole.

Run as ``python kills.py CASE FOLDER``: each child gets its own folder and one more operation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upslope.runs import Run
from upslope.trajectories import COLUMNS, TABLES, TRUTHS, TrajectoryFiles

OPERATIONS = ("write", "fsync", "replace", "rename", "truncate", "ftruncate", "unlink", "rmdir")


def row(name: str, text: str = "said") -> dict[str, Any]:
    """A trajectory's row with just enough in it."""
    values = dict.fromkeys(COLUMNS, 1) | dict.fromkeys(("stage", "problem", "reason", "stop"), "x")
    known = {"id": name, "text": text, "reward": 0.5} | dict.fromkeys(TRUTHS, True)
    return values | known | {t: {} for t in TABLES}


def fill(folder: Path) -> None:
    """Write a checkpoint of two files."""
    (folder / "a").write_text("whole")
    (folder / "deep").mkdir()
    (folder / "deep" / "b").write_text("whole")


def trajectories(folder: Path) -> Callable[[], None]:
    """Three rows are written; the work adds a fourth, which makes a part, and a fifth."""
    files = TrajectoryFiles(folder / "trajectories", rows_in_part=4)
    files.append([row("0"), row("1"), row("2")])

    def work() -> None:
        files.append([row("3")])
        files.append([row("4")])

    return work


def checkpoints(folder: Path) -> Callable[[], None]:
    """One checkpoint is there; the work replaces it by the next, and writes the model twice."""
    run = Run.create(folder, "run", "", seed=0)
    run.checkpoint(1, fill)
    run.save_model(fill)

    def work() -> None:
        run.log(2, "train", {"reward/mean": 0.5})
        run.checkpoint(2, fill)
        run.save_model(fill)

    return work


def kill_at(operation: int) -> None:
    """Let this process die at its n-th file operation; a write dies half-way."""
    left = [operation]

    def deadly(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os._exit(9)
            return real(*args, **kwargs)

        return call

    for name in OPERATIONS:
        setattr(os, name, deadly(name, getattr(os, name)))


def main(case: str, root: Path) -> None:
    """Fork children that die later and later, until one lives."""
    for operation in range(1, 1000):
        folder = root / f"{operation:03d}"
        folder.mkdir()
        work = {"trajectories": trajectories, "checkpoints": checkpoints}[case](folder)
        child = os.fork()
        if child == 0:
            kill_at(operation)
            work()
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
