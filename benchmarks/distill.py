"""Distillation against RL: training FLOPs until a student has 95% of its teacher's accuracy.

    python benchmarks/distill.py recipes/ladder_addition.toml --seeds 3

For each seed the recipe makes the teacher, a larger model with all its stages, and the student,
with all but the last. Then the student's last stage is trained as the recipe has it, and by
``distill`` alone, until an evaluation finds 95% of the teacher's sampled accuracy. The teacher's
passes count; its own training does not. Exit status 1 where the mean ratio is above a third. Runs
that have ended are not trained again.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from statistics import mean
from typing import Any

from presets import trained, warm

from upslope.runs import Run

ACCURACY, FLOPS = "evaluation/sampled/mean", "ledger/training_flops"


def spent(run: Run, goal: float) -> float:
    """Training FLOPs at the first evaluation that found the goal; infinite where none did."""
    found = [row[FLOPS] for row in run.evaluations() if row[ACCURACY] >= goal]
    return min(found, default=float("inf"))


def arm(recipe: dict[str, Any], folder: Path, seed: int, name: str, goal: float, **own: Any) -> Run:
    """The student's last stage, until it has the goal."""
    stage = {k: v for k, v in recipe["stage"][-1].items() if k != "preset"} | own
    stage["stop"] = {"steps": 300, "accuracy": goal}
    begun = {**recipe, "model": str(folder / f"warm-{seed}" / "model"), "stage": [stage]}
    return trained(begun, folder, f"{name}-{seed}", seed)


def main() -> None:
    """Train what is missing, then print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--teacher", default="ladder:1m")
    parser.add_argument("--student", default="ladder:0.6m")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-4, help="of the distillation")
    parser.add_argument("--folder", type=Path, default=Path("runs/distill"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(given.recipe.read_text(encoding="utf-8")) | {"model": given.student}
    ratios = []
    for seed in range(given.seeds):
        teacher = trained({**recipe, "model": given.teacher}, given.folder, f"teacher-{seed}", seed)
        known = teacher.evaluations()[-1][ACCURACY]
        warm(recipe, given.folder, seed)
        often = {"evaluation": {"every": 4, "problems": 500}}
        grpo = {"algorithm": {"type": "grpo"}, **often}
        told = {
            "algorithm": {
                "type": "distill",
                "teacher": str(teacher.path),
                "of": {"type": "grpo", "aggregation": "token"},
            },
            "rollout": {"problems": 64, "group": 2},
            "learner": {"lr": given.lr},
            **often,
        }
        runs = [
            arm(recipe, given.folder, seed, name, 0.95 * known, **own)
            for name, own in (("rl", grpo), ("told", told))
        ]
        flops = [spent(run, 0.95 * known) for run in runs]
        ratios.append(flops[1] / flops[0])
        reached = [run.evaluations()[-1][ACCURACY] for run in runs]
        print(
            f"seed {seed}: teacher {known:.1%}; RL {reached[0]:.1%} after {flops[0]:.2e} FLOPs, "
            f"distillation {reached[1]:.1%} after {flops[1]:.2e}: {ratios[-1]:.2f} of them"
        )
    print(f"distillation takes {mean(ratios):.2f} of the FLOPs of RL, {max(ratios):.2f} at most")
    sys.exit(int(not mean(ratios) <= 1 / 3))


if __name__ == "__main__":
    main()
