"""Every preset on one recipe's last stage, from the same weights, on several seeds.

    python benchmarks/presets.py recipes/ladder_addition.toml --seeds 5 --jobs 2

For each seed the stages before the last are trained once; then the last is trained with each
preset from their weights, everything else held equal. A row for each: accuracy before and after,
the mean over seeds with a 95% t-interval, the worst seed after, and training FLOPs. Runs that
have ended are not trained again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tomli_w

from upslope.presets import names
from upslope.runs import Run

T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
# What a preset wants beside its name on a small model; the ladder recipe's comment says why.
NEEDS = {
    "dapo": {"lr": 5e-5},
    "minimax": {"lr": 5e-5},
    "scalerl": {"warmup": 10},
}


def trained(recipe: dict[str, Any], folder: Path, name: str, seed: int) -> Run:
    """The finished run of a recipe, trained in a process of its own unless it is there."""
    path = folder / name
    if not (path / "result.json").is_file():
        file = folder / f"{name}.toml"
        file.write_text(tomli_w.dumps(recipe), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("upslope")), "train", str(file)]
        with (folder / f"{name}.log").open("w") as log:
            subprocess.run(
                [*command, f"seed={seed}", f'runs="{folder}"', f"name={name}"],
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
    return Run.open(path)


def warm(recipe: dict[str, Any], folder: Path, seed: int) -> Run:
    """The stages before the last."""
    return trained({**recipe, "stage": recipe["stage"][:-1]}, folder, f"warm-{seed}", seed)


def last(recipe: dict[str, Any], folder: Path, preset: str, seed: int) -> Run:
    """The last stage with a preset, from the warm weights of the same seed."""
    stage = {k: v for k, v in recipe["stage"][-1].items() if k != "algorithm"}
    stage = {**stage, "preset": preset}
    stage["learner"] = {**stage.get("learner", {}), **NEEDS.get(preset, {})}
    begun = {**recipe, "model": str(folder / f"warm-{seed}" / "model"), "stage": [stage]}
    return trained(begun, folder, f"{preset}-{seed}", seed)


def spread(values: Iterable[float]) -> str:
    """Mean and 95% t-interval over seeds, in percent."""
    found = [100 * value for value in values]
    if len(found) < 2:
        return f"{found[0]:.1f}"
    half = T95[len(found)] * stdev(found) / len(found) ** 0.5
    low, high = max(0.0, mean(found) - half), min(100.0, mean(found) + half)
    return f"{mean(found):.1f} ({low:.1f} to {high:.1f})"


def row(preset: str, runs: list[Run]) -> str:
    """A preset's row of the table."""
    results = [result for run in runs if (result := run.result())]
    after = [result.after.sampled.mean for result in results]
    flops = [run.metrics()[-1]["ledger/training_flops"] for run in runs]
    needs = ", ".join(f"{key} = {value:g}" for key, value in NEEDS.get(preset, {}).items())
    return " | ".join(
        [
            f"| {preset}{f' ({needs})' if needs else ''}",
            spread(result.before.sampled.mean for result in results),
            spread(after),
            f"{100 * min(after):.1f}",
            spread(result.before.greedy.mean for result in results),
            spread(result.after.greedy.mean for result in results),
            f"{mean(flops):.2e} |",
        ]
    )


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--presets", nargs="+", default=names(), choices=names())
    parser.add_argument("--folder", type=Path, default=Path("runs/presets"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(given.recipe.read_text(encoding="utf-8"))
    seeds = range(given.seeds)
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda seed: warm(recipe, given.folder, seed), seeds))
        pairs = [(preset, seed) for preset in given.presets for seed in seeds]
        runs = dict(
            zip(pairs, pool.map(lambda p: last(recipe, given.folder, *p), pairs), strict=True)
        )
    print("| preset | sampled before | after | worst seed | greedy before | after | FLOPs |")
    print("|---|---|---|---|---|---|---|")
    for preset in given.presets:
        print(row(preset, [runs[preset, seed] for seed in seeds]))


if __name__ == "__main__":
    main()
