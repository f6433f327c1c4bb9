"""Trains the recipe below in child processes that kill themselves at given moments.

Run as ``python deaths.py FOLDER SHARE...``: the child in FOLDER/whole lives and counts its events
(updates, groups played, files and folders written); that in FOLDER/SHARE dies after such a share.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import upslope.files
import upslope.runs
import upslope.trajectories
from upslope.launch import train_recipe
from upslope.learner import Learner
from upslope.recipe import read
from upslope.rollout import Player

# An epoch is two steps, a checkpoint three: resumed runs begin within an epoch and at its end.
RECIPE: Mapping[str, Any] = {
    "name": "killed",
    "model": "ladder:0.1m",
    "machine": {"threads": 1},
    "env": {"type": "arithmetic", "digits": 1, "train": 8, "wrong": 0.3},
    "rollout": {"problems": 4, "group": 4, "max_tokens": 3},
    "learner": {"lr": 1e-3, "updates": 2, "warmup": 5},
    "evaluation": {"problems": 2, "every": 4},
    "check": {"problems": 1},
    "checkpoint": {"every": 3},
    "stage": [
        {
            "name": "sft",
            "algorithm": {"type": "sft"},
            "source": {"type": "recorded"},
            "stop": {"steps": 5},
        },
        {
            "name": "rl",
            "algorithm": {"type": "reinforce", "kl": {"coefficient": 0.1}},
            "source": {"type": "rollouts", "retire": 0.9},
            "stop": {"steps": 8},
        },
    ],
}


def train(folder: Path, *overrides: str) -> None:
    """Train the recipe, silently."""
    train_recipe(read({**RECIPE, "runs": str(folder)}, overrides), lambda line: None)


class Clock:
    """Counts events and kills the process at one of them, before it happens."""

    def __init__(self, moment: int) -> None:
        self.moment, self.events = moment, 0

    def watch(self, owner: Any, name: str) -> None:
        """Count calls of ``owner.name``."""
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.events += 1
            if self.events == self.moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(owner, name, counted)


def child(folder: Path, moment: int) -> None:
    """Train until the moment."""
    clock = Clock(moment)
    clock.watch(Learner, "update")
    clock.watch(Player, "group")
    clock.watch(upslope.files, "_write")
    clock.watch(upslope.files, "_sync")
    train(folder)
    (folder / "events").write_text(str(clock.events))


def fork(work: Callable[[], None]) -> int:
    """Do something in a child; its exit code, or less than 0 where a signal killed it."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, shares: list[str]) -> None:
    """One child that lives, then one for each share."""
    events = 0
    for name in ("whole", *shares):
        own, moment = folder / name, int(events * float(name)) if events else 0
        own.mkdir()
        code = fork(lambda own=own, moment=moment: child(own, moment))  # type: ignore[misc]
        assert code == (-signal.SIGKILL if moment else 0), code
        events = events or int((own / "events").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
