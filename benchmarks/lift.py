"""What RL adds to SFT: a recipe trained on several seeds, its last stage before and after.

    python benchmarks/lift.py recipes/ladder_retrieval.toml --seeds 3 --points 20

A row for each seed: accuracy on held-out problems with its 95% interval, sampled and greedy, and
what the run took, evaluations included. Runs that have ended are not trained again. The exit status
is 1 where a seed's sampled accuracy rose by less than ``--points``, or its run took more than
``--minutes`` of processor time.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from presets import spread, trained

from upslope.result import Estimate, Result

HEAD = "| seed | sampled before RL | after | greedy before | after | CPU-minutes, all | RL |"


def shown(estimate: Estimate) -> str:
    """An accuracy with its interval, in percent."""
    return f"{100 * estimate.mean:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def row(seed: int, result: Result) -> str:
    """A seed's row of the table."""
    before, after = result.before, result.after
    cells = [before.sampled, after.sampled, before.greedy, after.greedy]
    minutes = [result.cpu_seconds / 60, result.stages[-1].cpu_seconds / 60]
    return f"| {seed} | {' | '.join([*map(shown, cells), *(f'{m:.1f}' for m in minutes)])} |"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--points", type=float, default=20, help="that accuracy must rise by")
    parser.add_argument("--minutes", type=float, default=10, help="that a run may take")
    parser.add_argument("--folder", type=Path, default=Path("runs/lift"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe, name = tomllib.loads(given.recipe.read_text(encoding="utf-8")), given.recipe.stem
    seeds = range(given.seeds)
    with ThreadPoolExecutor(given.jobs) as pool:
        runs = pool.map(lambda seed: trained(recipe, given.folder, f"{name}-{seed}", seed), seeds)
        results = [result for run in runs if (result := run.result())]
    print(f"{HEAD}\n|---|---|---|---|---|---|---|")
    for seed, result in zip(seeds, results, strict=True):
        print(row(seed, result))
    rises = [result.after.sampled.mean - result.before.sampled.mean for result in results]
    longest = max(result.cpu_seconds for result in results) / 60
    print(f"\nrise, mean over seeds: {spread(rises)} points; least {100 * min(rises):.1f}")
    sys.exit(100 * min(rises) < given.points or longest > given.minutes)


if __name__ == "__main__":
    main()
