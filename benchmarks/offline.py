"""What recorded answers are worth: AWR against behaviour cloning, and offline-to-online RL.

    python benchmarks/offline.py runs/offline --seeds 3

For each seed a ladder model is warmed up on demonstrations of which most are wrong, and what it
then answers to train problems, right or wrong, is recorded with its reward: the logs.

- offline: fresh models learn from the logs alone, by cloning (sft) and by AWR, with equal steps;
  accuracy on held-out problems, and AWR less cloning.
- online: from the warmed-up model to the wanted accuracy, by GRPO on rollouts alone, and by AWR on
  the logs first and then on a mix of both; how many answers each sampled until it was there.
- judged: the mean reward of the model that learned offline, as the logs foretell it.

Means over seeds with 95% t-intervals. Runs that have ended are not trained again.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from presets import spread, trained

from upslope.estimates import t_interval
from upslope.exam import Choices, evaluate_model
from upslope.hindsight import evaluate_recorded
from upslope.runs import Run
from upslope.types import UserError

RECIPE = Path(__file__).parent.parent / "recipes" / "ladder_addition.toml"
AWR = {"type": "awr", "beta": 0.2}
SAMPLES = 4  # recorded answers to each problem
GROUPS = 32  # of them in an offline step


def offline(algorithm: dict[str, Any], logs: Path, steps: int, lr: float) -> dict[str, Any]:
    """A stage that learns from the logs alone."""
    return {
        "name": "offline",
        "algorithm": algorithm,
        "source": {"type": "recorded", "path": str(logs)},
        "rollout": {"problems": GROUPS},
        "learner": {"lr": lr},
        "stop": {"steps": steps},
    }


def sampled(run: Run, at: int = -1) -> float:
    """Sampled accuracy of an evaluation."""
    return float(run.evaluations()[at]["evaluation/sampled/mean"])


def answers(run: Run, wanted: float) -> float | None:
    """Answers sampled online until an evaluation showed what is wanted; None where none did."""
    stages = tomllib.loads((run.path / "recipe.toml").read_text())
    size = stages["rollout"]["group"]
    rows = [row for row in run.metrics() if row["stage"] == "online"]
    played = {row["step"]: row["groups/used"] - row.get("groups/recorded", 0.0) for row in rows}
    for row in run.evaluations():
        if row["stage"] == "online" and row["evaluation/sampled/mean"] >= wanted:
            return size * sum(n for step, n in played.items() if step <= row["step"])
    return None


def seed_rows(seed: int, options: argparse.Namespace) -> dict[str, float | None]:
    """All figures of one seed."""
    folder, recipe = options.folder, tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    recipe["model"] = options.model
    recipe["evaluation"] = {"problems": options.held_out}
    warm, rl = recipe["stage"]
    warm["stop"] = {"steps": options.warm}
    start = trained({**recipe, "stage": [warm]}, folder, f"warm-{seed}", seed)
    logs = folder / f"logs-{seed}.jsonl"
    if not logs.exists():
        asked = Choices(options.problems, SAMPLES, "train", 5, seed, record=str(logs))
        evaluate_model(str(start.path), None, [], asked)
    rows = [json.loads(line) for line in logs.read_text().splitlines()]
    found: dict[str, float | None] = {"logs": sum(row["reward"] for row in rows) / len(rows)}
    for name, algorithm in (("sft", {"type": "sft"}), ("awr", AWR)):
        alone = offline(algorithm, logs, options.offline, 1e-3)
        found[name] = sampled(trained({**recipe, "stage": [alone]}, folder, f"{name}-{seed}", seed))
    try:
        for line in evaluate_recorded(str(folder / f"awr-{seed}"), str(logs)):
            print(f"  seed {seed}: {line}", flush=True)
    except UserError as error:
        print(f"  seed {seed}: not judged: {error}", flush=True)
    begun = {**recipe, "model": str(start.path / "model")}
    bounds = {"stop": {"steps": options.online, "accuracy": options.wanted}}
    bounds["evaluation"] = {"every": options.every, "problems": options.held_out}
    online = {**rl, **bounds, "name": "online"}
    first = trained({**begun, "stage": [online]}, folder, f"online-{seed}", seed)
    mixed = {"type": "mixed", "path": str(logs), "share": 0.5}
    later = {"name": "online", "algorithm": AWR, "source": mixed, "learner": {"lr": 2e-4}, **bounds}
    taught = offline(AWR, logs, options.taught, 3e-4)
    both = trained({**begun, "stage": [taught, later]}, folder, f"both-{seed}", seed)
    return found | {
        "start": sampled(first, 0),
        "online": answers(first, options.wanted),
        "taught": sampled(both, 1),
        "both": answers(both, options.wanted),
    }


def percent(values: list[float]) -> str:
    """Mean and 95% t-interval over seeds of what may be below 0 and above 100."""
    mean, low, high = (100 * value for value in t_interval(values))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """All seeds, then the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="ladder:0.6m")
    parser.add_argument("--warm", type=int, default=300, help="steps before the logs")
    parser.add_argument("--offline", type=int, default=1500, help="steps of cloning, and of AWR")
    parser.add_argument("--taught", type=int, default=400, help="offline steps before online ones")
    parser.add_argument("--online", type=int, default=200, help="steps online, at most")
    parser.add_argument("--every", type=int, default=5, help="steps between evaluations online")
    parser.add_argument("--problems", type=int, default=4000, help="train problems in the logs")
    parser.add_argument("--held-out", type=int, default=1000, help="problems of an evaluation")
    parser.add_argument("--wanted", type=float, default=0.8, help="accuracy to be reached online")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(options.seeds):
        rows.append(seed_rows(seed, options))
        print(f"seed {seed}: {json.dumps(rows[-1])}", flush=True)
    for name in ("logs", "sft", "awr", "start", "taught"):
        print(f"{name:8} {spread(float(row[name] or 0) for row in rows)}%")
    gain = [float(row["awr"] or 0) - float(row["sft"] or 0) for row in rows]
    print(f"AWR less cloning, in points: {percent(gain)}")
    reached = [(row["online"], row["both"]) for row in rows]
    for seed, (online, both) in enumerate(reached):
        print(f"answers until {options.wanted:.0%}, seed {seed}: online {online}, both {both}")
    if all(online and both is not None for online, both in reached):
        shares = [both / online for online, both in reached]  # type: ignore[operator]
        print(f"answers of offline to online, in percent of online alone: {percent(shares)}")


if __name__ == "__main__":
    main()
