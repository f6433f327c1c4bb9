"""Sampling and updating at once: steps per second at max_staleness 1 and 0, of the same recipe.

    python benchmarks/overlap.py --prompts 8 --group 8 --tokens 16

Both use every core. The two take turns, in processes of their own; elapsed time, so that other
programs must rest. The first two steps are not counted: one is cold, and at staleness 1 the next
still waits for its groups. Half of the groups earn nothing, as in the middle of a run, which makes
sampling and updating cost about the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from shaped import Shape

from upslope.launch import train_recipe
from upslope.machine import prepare_memory
from upslope.recipe import read
from upslope.types import Action, Group, Metrics

WARM = 2  # steps that are not counted
SPENT = {
    "sampling": "ledger/seconds/decode",
    "updating": "ledger/seconds/update",
    "handing weights over": "ledger/seconds/sync",
}
BOUND = 1.4


class Clock:
    """A watch: when each step ended, and what the ledger said."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.rows: list[Metrics] = []

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """After a step, or an evaluation, which has no groups."""
        if groups:
            self.ends.append(time.perf_counter())
            self.rows.append(metrics)
        return ()


def measure(args: argparse.Namespace) -> None:
    """In a process of one side: print its figures as JSON."""
    prepare_memory()
    clock, steps = Clock(), WARM + args.steps
    shape = Shape(args.prompts, args.group, args.length, args.tokens, args.dead)
    with tempfile.TemporaryDirectory() as folder:
        recipe = shape.recipe(args.model, Path(folder), steps)
        changes = (f"rollout.max_staleness={args.side}", f"machine.threads={args.threads}")
        train_recipe(read(recipe, changes), lambda line: None, watches=[clock])
    first, last = clock.rows[WARM - 1], clock.rows[-1]
    figures = {name: (last[key] - first[key]) / args.steps for name, key in SPENT.items()}
    figures["rate"] = args.steps / (clock.ends[-1] - clock.ends[WARM - 1])
    figures["staleness"] = last["staleness/max"]
    print(json.dumps(figures))


def main() -> None:
    """Print both rates, what each side spends where, their ratio and the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--length", type=int, default=0, help="0 is the quickstart's, or sums")
    parser.add_argument("--tokens", type=int, default=16, help="tokens sampled in each row")
    parser.add_argument("--dead", type=int, default=1, help="groups of each two without a reward")
    parser.add_argument("--threads", type=int, default=0, help="0 is one for each core")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is not None:
        measure(args)
        return
    seen: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for _ in range(args.rounds):
        for side, found in seen.items():
            out = subprocess.check_output([sys.executable, *sys.argv, "--side", str(side)])
            found.append(json.loads(out.splitlines()[-1]))
    print("python", *sys.argv)
    rates = {side: statistics.median(f["rate"] for f in found) for side, found in seen.items()}
    for side, found in seen.items():
        spread = ", ".join(f"{f['rate']:.3f}" for f in found)
        costs = ", ".join(f"{statistics.median(f[n] for f in found):.2f} s {n}" for n in SPENT)
        print(f"staleness {found[0]['staleness']:.0f}: {rates[side]:.3f} steps a second ({spread})")
        print(f"  a step: {costs}")
    print(f"ratio    {rates[1] / rates[0]:7.2f}, bound {BOUND}")


if __name__ == "__main__":
    main()
