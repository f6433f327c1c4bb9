"""Whether the alarm on collapse fires in time in runs that are broken, and never in sound ones.

    python benchmarks/collapse.py recipes/ladder_addition.toml --seeds 3 --clean 5 --jobs 2

For each seed the stages before the last are trained once; then the last is trained from their
weights with each fault of ``FAULTS``, and as it is. A row for each broken run: the step of the
first alarm and its signs, the step from which the reward stays within 5% of its range from where
it ends, and how many steps the alarm was before that. Then the steps of all sound runs, and their
alarms. Exit status 1 where an alarm is missing, late or false. ``--record`` keeps the rows of the
first seed for tests. Runs that have ended are not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from presets import trained, warm

from upslope.alarms import LASTING, READ, Signs
from upslope.overrides import merge
from upslope.runs import Run

FAULTS: dict[str, dict[str, Any]] = {
    "learning rate x 10": {"learner": {"lr": 2e-3}},
    "one answer is always paid": {"env": {"type": "benchmarks/faults.py:Bribed"}},
    "entropy of the wrong sign": {
        "algorithm": {"type": "benchmarks/faults.py:Wrong", "of": "entropy", "coefficient": 0.2}
    },
    "kl of the wrong sign": {
        "algorithm": {"type": "benchmarks/faults.py:Wrong", "of": "kl", "coefficient": 1.0}
    },
}
Rows = list[dict[str, Any]]
FLAT = 0.05


def run(recipe: dict[str, Any], given: argparse.Namespace, fault: str, seed: int) -> Run:
    """The last stage with a fault, "" for none, from the warm weights of the same seed."""
    stage = {k: v for k, v in recipe["stage"][-1].items() if k != "preset"}
    stage = merge({"algorithm": {"type": "grpo"}, **stage}, FAULTS.get(fault, {}))
    stage["stop"] = {"steps": given.steps if fault else given.clean_steps}
    begun = {k: v for k, v in recipe.items() if k != "env"} | {"env": dict(recipe["env"])}
    if "env" in FAULTS.get(fault, {}):
        stage["env"] = {**FAULTS[fault]["env"], "digits": recipe["env"].get("digits", 2)}
    begun |= {"model": str(given.folder / f"warm-{seed}" / "model"), "stage": [stage]}
    begun["check"] = {"enabled": False}
    return trained(begun, given.folder, f"{fault.replace(' ', '-') or 'clean'}-{seed}", seed)


def alarms(rows: Rows) -> list[tuple[int, list[str]]]:
    """The steps, counted from 1, at which signs came to have lasted, and these."""
    signs, lasted, found = Signs(), dict[str, int](), []
    for step, row in enumerate(rows, 1):
        near = signs.take(row)
        lasted = {name: lasted.get(name, 0) + 1 for name, size in near.items() if size >= 1}
        new = [name for name, steps in lasted.items() if steps == LASTING]
        found += [(step, new)] if new else []
    return found


def flat(rewards: Sequence[float]) -> int:
    """The step from which the reward, as a mean over five steps, stays near where it ends."""
    smooth = np.convolve(np.pad(rewards, 2, mode="edge"), np.ones(5) / 5, "valid")
    end = smooth[-max(5, len(smooth) // 10) :].mean()
    away = np.flatnonzero(np.abs(smooth - end) > FLAT * np.ptp(smooth))
    return int(away[-1]) + 2 if len(away) else 1


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="of each fault")
    parser.add_argument("--steps", type=int, default=150, help="of a broken run")
    parser.add_argument("--clean", type=int, default=5, help="sound runs")
    parser.add_argument("--clean-steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--model", help="in place of the recipe's")
    parser.add_argument("--digits", type=int, default=2)
    parser.add_argument("--problems", type=int, help="of a step, in place of the recipe's")
    parser.add_argument("--warm", type=int, help="steps of the stage before, in place of its own")
    parser.add_argument("--folder", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--record", type=Path, help="a JSON file for rows of the first seed")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(given.recipe.read_text(encoding="utf-8"))
    recipe["env"]["digits"] = given.digits
    recipe["evaluation"] = {"problems": 50}
    recipe["model"] = given.model or recipe["model"]
    if given.problems:
        recipe["rollout"]["problems"] = given.problems
    if given.warm:
        recipe["stage"][0]["stop"] = {"steps": given.warm}
    pairs = [(fault, seed) for fault in FAULTS for seed in range(given.seeds)]
    pairs += [("", seed) for seed in range(given.clean)]
    with ThreadPoolExecutor(given.jobs) as pool:
        seeds = range(max(given.seeds, given.clean))
        list(pool.map(lambda seed: warm(recipe, given.folder, seed), seeds))
        runs = pool.map(lambda pair: run(recipe, given, *pair).metrics(), pairs)
        found: dict[tuple[str, int], Rows] = dict(zip(pairs, runs, strict=True))
    sys.exit(told(found, given))


def told(found: dict[tuple[str, int], Rows], given: argparse.Namespace) -> int:
    """The table, the sound runs, and the exit status."""
    failed, steps, false = 0, 0, 0
    print("| fault | seed | first alarm | signs | reward is flat from | steps before |")
    print("|---|---|---|---|---|---|")
    for (fault, seed), rows in found.items():
        raised = alarms(rows)
        if not fault:
            steps, false = steps + len(rows), false + len(raised)
            for step, signs in raised:
                print(f"a false alarm: seed {seed}, step {step}: {', '.join(signs)}")
            continue
        still = flat([row["reward/mean"] for row in rows])
        step, signs = raised[0] if raised else (0, ["none"])
        failed += not raised or step >= still
        before = still - step if raised else "-"
        print(f"| {fault} | {seed} | {step} | {', '.join(signs)} | {still} | {before} |")
    print(f"\n{steps} sound steps, {false} alarms")
    if given.record:
        kept = {
            fault or "clean": {name: [round(row[name], 3) for row in rows] for name in READ}
            for (fault, seed), rows in found.items()
            if seed == 0
        }
        given.record.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    return int(bool(failed or false))


if __name__ == "__main__":
    main()
