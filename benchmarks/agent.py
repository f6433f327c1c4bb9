"""An agent that knows nothing of training, in a process of its own, before and after training.

It is recipes/agents/desk.py, a program of the package `openai` alone; recipes/ladder_agent.toml
trains it through its requests, for a few seeds. Printed: the share of held-out orders that it
answers rightly, sampled and greedily, and the mean gain with a 95% interval over seeds.

    python benchmarks/agent.py --seeds 3
"""

from __future__ import annotations

import argparse
from pathlib import Path

import upslope
from upslope.estimates import t_interval

RECIPE = Path(__file__).parent.parent / "recipes" / "ladder_agent.toml"


def main() -> None:
    """Train each seed, and say what was gained."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--folder", default="runs/agent")
    options.add_argument(
        "settings", nargs="*", help="settings to change, as in stage.rl.stop.steps=5"
    )
    given = options.parse_args()
    gains: dict[str, list[float]] = {"sampled": [], "greedy": []}
    for seed in range(given.seeds):
        changes = [f"seed={seed}", f"runs={given.folder}", f"name=seed-{seed}", *given.settings]
        run = upslope.train(str(RECIPE), changes)
        result = run.result()
        assert result is not None
        rl = result.stages[-1]
        pairs = {
            "sampled": (rl.before.sampled.mean, rl.after.sampled.mean),
            "greedy": (rl.before.greedy.mean, rl.after.greedy.mean),
        }
        for kind, (before, after) in pairs.items():
            gains[kind].append(100 * (after - before))
            print(f"seed {seed}, {kind}: {100 * before:.1f}% -> {100 * after:.1f}%", flush=True)
    for kind, found in gains.items():
        mean, low, high = t_interval(found)
        print(f"{kind}: {mean:+.1f} points ({low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
    main()
