"""How the compute of learning grows with the depth of a proof: T = a D^gamma (arXiv:2605.06638).

    python benchmarks/depth.py recipes/ladder_depth.toml --seeds 3

All stages but the recipe's last two are trained once, on proofs of more and more depths, which
takes most of the time. From these weights each seed learns to slip, at every depth at once, and
from there the last stage learns to prove at each depth alone, until an evaluation finds the target
or the stage's cap ends it. T is the training compute of that last stage at which its accuracy came
to the target, between two evaluations along a straight line. A line through the logarithms of each
seed's gives one exponent a seed; the interval is a 95% t interval over the seeds. Depths that began
beyond the target, or never came to it, are named and left out. Runs that have ended are not trained
again.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from presets import trained, warm

from upslope.runs import Run
from upslope.scaling.curves import over_seeds
from upslope.scaling.laws import depth

ACCURACY, FLOPS = "evaluation/sampled/mean", "ledger/training_flops"
LEAST = 3  # depths of a seed that a line is put through
LEVEL = 0.95


def last(recipe: dict[str, Any], folder: Path, seed: int, steps: int, target: float) -> Run:
    """The last stage on proofs of one depth, from the warm weights of the seed."""
    stage = recipe["stage"][-1]
    stage = {**stage, "stop": {**stage["stop"], "accuracy": target}}
    begun = {
        **recipe,
        "model": str(folder / f"warm-{seed}" / "model"),
        "env": {**recipe["env"], "depths": [steps]},
        "stage": [stage],
    }
    return trained(begun, folder, f"depth-{steps}-{seed}", seed)


def reached(run: Run, target: float) -> float:
    """Training FLOPs at the target; NaN where the run never came there or began beyond it."""
    rows = run.evaluations()
    x, y = (np.array([row[key] for row in rows]) for key in (FLOPS, ACCURACY))
    beyond = np.flatnonzero(y >= target)
    if not len(beyond) or beyond[0] == 0:
        return float("nan")
    b = beyond[0]
    return float(np.interp(target, y[b - 1 : b + 1], x[b - 1 : b + 1]))


def law(found: dict[int, float]) -> tuple[float, float, float]:
    """Scale and exponent of T = a D^gamma, and R^2 of the logarithms."""
    scale, exponent = depth(np.array([*found]), np.array([*found.values()]))
    logs = np.log([*found.values()])
    residual = logs - np.log(scale) - exponent * np.log([*found])
    return scale, exponent, 1 - float((residual**2).sum() / ((logs - logs.mean()) ** 2).sum())


def main() -> None:
    """Train what is missing, then print the table and the exponent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.9, help="sampled accuracy")
    parser.add_argument("--folder", type=Path, default=Path("runs/depth"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(given.recipe.read_text(encoding="utf-8"))
    print("python", *sys.argv)
    before, after = recipe["stage"][:-2], recipe["stage"][-2:]
    proofs = trained({**recipe, "stage": before}, given.folder, "proofs", 0)
    exponents = []
    for seed in range(given.seeds):
        warm({**recipe, "model": str(proofs.path / "model"), "stage": after}, given.folder, seed)
        found: dict[int, float] = {}
        for steps in recipe["env"]["depths"]:
            run = last(recipe, given.folder, seed, steps, given.target)
            compute, rows = reached(run, given.target), run.evaluations()
            came = f"{compute:.3g} FLOPs" if np.isfinite(compute) else "not between two evaluations"
            print(
                f"  seed {seed} depth {steps}  {rows[0][ACCURACY]:.3f} -> {rows[-1][ACCURACY]:.3f} "
                f"in {len(run.metrics())} steps  {given.target}: {came}",
                flush=True,
            )
            if np.isfinite(compute):
                found[steps] = compute
        if len(found) < LEAST:
            print(f"  seed {seed} came to {given.target} at {len(found)} depths; a line needs 3")
            continue
        scale, exponent, fit = law(found)
        print(f"  seed {seed}  T = {scale:.3g} D^{exponent:.2f}, R^2 {fit:.3f}")
        exponents.append(exponent)
    if len(exponents) < 2:
        sys.exit("fewer than two seeds have an exponent: no interval can be given")
    bounds = over_seeds(np.array(exponents), LEVEL)
    print(
        f"exponent  {bounds.value:.2f} ({bounds.low:.2f} to {bounds.high:.2f}), "
        f"{len(exponents)} seeds"
    )


if __name__ == "__main__":
    main()
