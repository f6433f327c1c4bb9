"""A mean-length budget on a ladder model: accuracy and length with it and without.

    python benchmarks/budget.py recipes/ladder_budget.toml --seeds 3

For each seed the recipe's first stage is trained once; then its last, twice, from the same weights:
as it is, and with a budget so large that it never acts. Prints the mean length over the last
quarter of steps and in the evaluation, against the budget, and both accuracies. Exit status 1
where a length is past 5% of the budget or an accuracy more than 2 points below the other's. Runs
that have ended are not trained again.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tomllib
from pathlib import Path
from statistics import mean
from typing import Any

from presets import spread, trained, warm

from upslope.runs import Run

COST = "constraint/length/cost"


def last(recipe: dict[str, Any], folder: Path, seed: int, budget: float) -> Run:
    """The last stage under a budget, from the warm weights of the seed."""
    stage = copy.deepcopy(recipe["stage"][-1])
    stage["algorithm"]["costs"]["length"]["budget"] = budget
    begun = {**recipe, "model": str(folder / f"warm-{seed}" / "model"), "stage": [stage]}
    return trained(begun, folder, f"budget-{budget:g}-{seed}", seed)


def main() -> None:
    """Train what is missing, then print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", help="in place of the recipe's")
    parser.add_argument("--folder", type=Path, default=Path("runs/budget"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(given.recipe.read_text(encoding="utf-8"))
    recipe["model"] = given.model or recipe["model"]
    budget = float(recipe["stage"][-1]["algorithm"]["costs"]["length"]["budget"])
    held, free, failed = list[float](), list[float](), False
    for seed in range(given.seeds):
        warm(recipe, given.folder, seed)
        runs = [last(recipe, given.folder, seed, limit) for limit in (budget, 1e5)]
        rows = [run.metrics() for run in runs]
        lengths = [mean(r[COST] for r in seen[-len(seen) // 4 :]) for seen in rows]
        tested = [run.evaluations()[-1] for run in runs]
        accuracy = [row["evaluation/sampled/mean"] for row in tested]
        held, free = [*held, accuracy[0]], [*free, accuracy[1]]
        off = lengths[0] / budget - 1
        failed |= abs(off) > 0.05 or accuracy[0] < accuracy[1] - 0.02
        print(
            f"seed {seed}: length {lengths[0]:.2f} of {budget:g} ({off:+.1%}), evaluated "
            f"{tested[0]['evaluation/sampled/length']:.2f}, accuracy {accuracy[0]:.1%}, price "
            f"{rows[0][-1]['constraint/length/price']:.4f}; without: length {lengths[1]:.2f}, "
            f"accuracy {accuracy[1]:.1%}"
        )
    print(f"accuracy in percent, 95% over seeds: {spread(held)} within, {spread(free)} without")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
