"""What `upslope plan` says before a run, and what was seen: peak memory, and seconds of a step.

    python benchmarks/plan.py recipes/quickstart.toml recipes/ladder_addition.toml

Each recipe is planned, then trained, in processes of their own, in turns, ``--rounds`` times:
earlier stages whole, since a policy that knows nothing has nothing to update, and a few steps of
the last; few evaluation problems. A step's time is the median; the first is cold and not counted.
Beside the median over rounds stand the least and the most, and the ratio over the first steps
alone: a plan is of the stage's beginning, and steps get cheaper as groups are all right and teach
nothing. The peak is the process's whole, with Python and its libraries. On a machine that others
use, times say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

FIRST = 3  # steps that stand for a stage's beginning, after the cold one
PLAN = """
import json, sys
from upslope.machine import prepare_memory
prepare_memory()
from upslope.pace import paces
from upslope.plan import speed
from upslope.recipe import read
from upslope.session import Session
from upslope.sizes import memory, sizes
session = Session(read(sys.argv[1], sys.argv[2:]), lambda said: None)
held, work = memory(session).total, [sizes(session, one).step for one in session.stages]
tried = paces(session, work, speed())
print(json.dumps({"memory": held, "steps": [pace.step for pace in tried]}))
"""
TRAIN = """
import json, sys
from upslope import train
from upslope.machine import peak_memory
rows = train(sys.argv[1], sys.argv[2:]).metrics()
ends = [[r["stage"], r["ledger/seconds"] - r["ledger/seconds/evaluation"]] for r in rows]
print(json.dumps({"memory": peak_memory(), "ends": ends}))
"""


def told(code: str, *arguments: str) -> dict[str, Any]:
    """What a program prints at its end."""
    said = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
    return json.loads(said.splitlines()[-1])  # type: ignore[no-any-return]


def step_seconds(ends: list[tuple[str, float]], stage: str) -> tuple[float, float]:
    """Of a stage's steps and of its first ones, the median; ``ends``: when each step ended."""
    own = [end for name, end in ends if name == stage]
    took = [b - a for a, b in pairwise(own)]
    return statistics.median(took), statistics.median(took[:FIRST])


def middle(values: Sequence[float]) -> str:
    """The median, and between what the values lie."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print predictions, measurements and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="of the last stage")
    parser.add_argument("--problems", type=int, default=128, help="in each evaluation")
    args = parser.parse_args()
    print("python", *sys.argv)
    for recipe in args.recipes:
        stages = tomllib.loads(Path(recipe).read_text()).get("stage", [])
        names = [one["name"] for one in stages] or ["train"]
        stop = f"stage.{names[-1]}.stop" if stages else "stop"
        small = [f"{stop}.steps={args.steps}", f"evaluation.problems={args.problems}"]
        said, seen = [], []
        for _ in range(args.rounds):
            said.append(told(PLAN, recipe, *small))
            with tempfile.TemporaryDirectory() as folder:
                seen.append(told(TRAIN, recipe, *small, f"runs={folder!r}"))
        least, peak = (max(one["memory"] for one in both) / 2**30 for both in (said, seen))
        print(f"{recipe}: memory {least:.2f} GiB planned, {peak:.2f} seen, {least / peak:.2f}")
        for i, name in enumerate(names):
            planned = [one["steps"][i] for one in said]
            found = [step_seconds(one["ends"], name) for one in seen]
            whole, first = (
                [p / both[k] for p, both in zip(planned, found, strict=True)] for k in (0, 1)
            )
            print(
                f"  stage {name}: {statistics.median(planned):.3f} s a step planned, "
                f"{statistics.median(both[0] for both in found):.3f} seen, {middle(whole)}; "
                f"over the first {FIRST} steps {middle(first)}"
            )


if __name__ == "__main__":
    main()
