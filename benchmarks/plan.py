"""What `upslope plan` says before a run, and what was seen: peak memory, and seconds of a step.

    python benchmarks/plan.py recipes/quickstart.toml recipes/ladder_addition.toml

Each recipe is planned, then trained, in processes of their own, in turns: earlier stages whole, a
few steps of the last one, few evaluation problems. A step's time is the median; the first is cold
and not counted. The peak is the process's whole, with Python and its libraries. On a machine that
others use, times say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

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


def step_seconds(ends: list[tuple[str, float]], stage: str) -> float:
    """Of a stage's steps, the median; ``ends``: when each step of which stage ended."""
    own = [end for name, end in ends if name == stage][1:]
    return statistics.median(b - a for a, b in pairwise(own))


def main() -> None:
    """Print predictions, measurements and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--steps", type=int, default=8, help="of the last stage")
    parser.add_argument("--problems", type=int, default=128, help="in each evaluation")
    args = parser.parse_args()
    print("python", *sys.argv)
    for recipe in args.recipes:
        stages = tomllib.loads(Path(recipe).read_text()).get("stage", [])
        names = [one["name"] for one in stages] or ["train"]
        stop = f"stage.{names[-1]}.stop" if stages else "stop"
        small = [f"{stop}.steps={args.steps}", f"evaluation.problems={args.problems}"]
        said = told(PLAN, recipe, *small)
        with tempfile.TemporaryDirectory() as folder:
            seen = told(TRAIN, recipe, *small, f"runs={folder!r}")
        least, peak = said["memory"] / 2**30, seen["memory"] / 2**30
        print(f"{recipe}: memory {least:.2f} GiB planned, {peak:.2f} seen, {least / peak:.2f}")
        for name, planned in zip(names, said["steps"], strict=True):
            found = step_seconds(seen["ends"], name)
            print(
                f"  stage {name}: {planned:.3f} s a step planned, {found:.3f} seen, "
                f"{planned / found:.2f}"
            )


if __name__ == "__main__":
    main()
