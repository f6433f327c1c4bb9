"""Peak memory of short runs of recipes: what `upslope plan` says before, and what was seen.

    python benchmarks/memory.py recipes/quickstart.toml recipes/ladder_addition.toml

Each recipe is planned and then trained for two steps a stage, with few evaluation problems, in a
process of its own. The peak is the process's whole, with Python and its libraries.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

PLAN = """
import sys
from upslope.machine import prepare_memory
prepare_memory()
from upslope.plan import memory
from upslope.recipe import read
from upslope.session import Session
print(memory(Session(read(sys.argv[1], sys.argv[2:]), lambda said: None)).total)
"""
TRAIN = """
import sys
from upslope import train
from upslope.machine import peak_memory
train(sys.argv[1], sys.argv[2:])
print(peak_memory())
"""


def last_line(code: str, *arguments: str) -> float:
    """The number that a program prints at its end, in GiB."""
    said = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
    return float(said.split()[-1]) / 2**30


def main() -> None:
    """Print predicted and measured peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--steps", type=int, default=2, help="of each stage")
    parser.add_argument("--problems", type=int, default=128, help="in each evaluation")
    args = parser.parse_args()
    print("python", *sys.argv)
    for recipe in args.recipes:
        stages = tomllib.loads(Path(recipe).read_text()).get("stage", [])
        tables = [f"stage.{one['name']}.stop" for one in stages] or ["stop"]
        small = [f"{table}.steps={args.steps}" for table in tables]
        small.append(f"evaluation.problems={args.problems}")
        with tempfile.TemporaryDirectory() as folder:
            seen = last_line(TRAIN, recipe, *small, f"runs={folder!r}")
        said = last_line(PLAN, recipe, *small)
        print(f"{recipe}: predicted {said:.2f} GiB, seen {seen:.2f}, ratio {said / seen:.2f}")


if __name__ == "__main__":
    main()
