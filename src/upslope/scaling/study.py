"""A study: one base recipe, arms along axes, seeds; every run trained once, and told in one table.

``results.csv`` is all that a report reads. Runs have names that depend on nothing but their arms
and seed, so a study goes on where it was stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from upslope.files import replace_file
from upslope.recipe import Recipe, dump, read
from upslope.runs import Run
from upslope.sentences import first_error
from upslope.settings import Name, Settings, Text
from upslope.types import UserError

COMMAND = "from upslope.cli import main; main()"  # also where no script was installed
PATIENCE = 10.0  # seconds in which a run that a terminal's Ctrl-C also reached ends by itself
Overrides = tuple[Text, ...]
Say = Callable[[str], None]


class Budget(Settings):
    """What arms are compared at: an equal amount of training FLOPs, or of tokens trained on."""

    unit: Literal["flops", "tokens"] = "flops"
    amount: Annotated[float, Field(gt=0)]


class Plan(Settings):
    """A study's file. ``arms``: by axis and then by name, the settings in which an arm differs.

    ``equal``: what the models of all arms must have alike, within 2%.
    """

    about: Text
    recipe: Text
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    budget: Budget
    equal: tuple[Literal["parameters", "active_parameters"], ...] = ()
    settings: Overrides = ()
    arms: Annotated[dict[Name, dict[Name, Overrides]], Field(min_length=1)]


@dataclass(frozen=True)
class Cell:
    """One run: an arm of each axis, and a seed."""

    arms: Mapping[str, str]
    seed: int
    overrides: Overrides

    @property
    def name(self) -> str:
        """What its run is called, the same whenever the study is run."""
        return "-".join([*self.arms.values(), f"s{self.seed}"])


@dataclass(frozen=True)
class Study:
    """A plan and its folder, in which the table and the report lie."""

    folder: Path
    plan: Plan

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """From a folder with ``study.toml``, or that file; UserError for what is wrong with it."""
        file = Path(path) / "study.toml" if Path(path).is_dir() else Path(path)
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
            plan = Plan.model_validate_json(json.dumps(raw, default=str))
        except FileNotFoundError as error:
            raise UserError(f"there is no study {file}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is not TOML: {error}") from error
        except ValidationError as error:
            raise first_error(error, Plan, "") from error
        study = cls(file.parent, plan)
        names = [cell.name for cell in study.cells()]
        if len(set(names)) < len(names):
            raise UserError(f"{file}: two runs would both be called {_twice(names)}")
        return study

    @property
    def axes(self) -> list[str]:
        """Their names."""
        return list(self.plan.arms)

    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that one that is stopped holds whole comparisons."""
        found = []
        for seed in self.plan.seeds:
            for chosen in product(*self.plan.arms.values()):
                arms = dict(zip(self.axes, chosen, strict=True))
                changes = [o for axis, arm in arms.items() for o in self.plan.arms[axis][arm]]
                found.append(Cell(arms, seed, (*self.plan.settings, *changes, f"seed={seed}")))
        return found

    def recipe(self, cell: Cell, runs: Path, threads: int) -> Recipe:
        """A run's recipe; UserError names the arm whose settings are wrong."""
        own = (f"runs={str(runs)!r}", f"name={cell.name}", f"machine.threads={threads}")
        try:
            return read(self.folder / self.plan.recipe, (*cell.overrides, *own))
        except UserError as error:
            raise UserError(f"{self.folder}, {cell.name}: {error}") from error


def run_study(study: Study, runs: Path, jobs: int, threads: int, say: Say) -> list[Run]:
    """Train what is missing, ``jobs`` runs at once; the finished runs in the order of the cells.

    Every recipe is read before the first is trained. A run that was stopped goes on from its newest
    checkpoint. Raises UserError, after the others have ended, where a run failed.
    """
    cells = study.cells()
    recipes = [study.recipe(cell, runs, threads) for cell in cells]
    runs.mkdir(parents=True, exist_ok=True)
    missing = [
        (cell, recipe)
        for cell, recipe in zip(cells, recipes, strict=True)
        if not (runs / cell.name / "result.json").is_file()
    ]
    say(f"{len(cells)} runs, {len(cells) - len(missing)} of them finished, {jobs} at once")
    failed, children = [], list[subprocess.Popen[bytes]]()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {
            pool.submit(_train, runs, cell, recipe, children): cell for cell, recipe in missing
        }
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                cell, error = waiting[future], future.result()
                failed += [error] if error else []
                say(f"  {done}/{len(missing)} {cell.name}{': failed' if error else ''}")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            # A terminal's Ctrl-C has reached the children, too; another signal may be ours alone.
            wait([future for future in waiting if not future.cancelled()], timeout=PATIENCE)
            for child in children:
                child.send_signal(signal.SIGINT)  # nothing, where it has ended
            pool.shutdown()
            say(f"stopped: what is finished is kept in {runs}; the same command goes on")
            raise
    if failed:
        raise UserError(f"{len(failed)} of {len(missing)} runs failed, the first one: {failed[0]}")
    return [Run.open(runs / cell.name) for cell in cells]


def _train(runs: Path, cell: Cell, recipe: Recipe, children: list[subprocess.Popen[bytes]]) -> str:
    """Train one run in a process of its own, one of ``children``; its last words if it failed."""
    file, log = runs / f"{cell.name}.toml", runs / f"{cell.name}.log"
    replace_file(file, dump(recipe).encode())
    again = ["--resume"] if (runs / cell.name / "recipe.toml").is_file() else []
    command = [sys.executable, "-c", COMMAND, "train", str(file), *again]
    threads = {"OMP_NUM_THREADS": str(recipe.machine.threads)}
    with log.open("ab") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | threads
        )
        children.append(child)
        code = child.wait()
    if code == 0:
        return ""
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{cell.name}: {last[-1] if last else f'exit {code}'}"


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)
