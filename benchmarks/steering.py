"""Steering: RL and SFT, at equal FLOPs, towards right answers of 18 to 22 characters.

    python benchmarks/steering.py recipes/ladder_steering.toml --seeds 3

For each seed the recipe's first stage is trained once. From its weights its last stage is trained
with as many FLOPs each by RL, by SFT on demonstrations of the wanted length, of which as many are
wrong as before (``sft``), and on such demonstrations without a mistake (``clean``). Then each is
asked held-out additions (the share of replies that are right and of the wanted length) and
subtractions, a task that the last stage leaves alone: their accuracy, before and after, and the
KL to the policy before, in nats a reply, on what the policy after says there. Exit status 1 where
RL hits less than 90%, or not more than SFT. Runs that have ended are not trained again.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from presets import spread, trained, warm

from upslope.batch import Batch
from upslope.envs.arithmetic import Arithmetic
from upslope.envs.working import Working
from upslope.exam import Choices, sit
from upslope.models.load import load
from upslope.models.logprobs import prepare, token_logprobs
from upslope.models.policy import Policy
from upslope.types import Env, Group

UNTOUCHED = Arithmetic(operations=("subtract",), test=500)
SFT: dict[str, Any] = {
    "algorithm": {"type": "sft"},
    "source": {"type": "recorded"},
    "rollout": {"problems": 128},
    "learner": {"lr": 1e-3},
}


@dataclass(frozen=True)
class Seen:
    """Shares of replies: hits, right additions and right subtractions; and the side-effect KL."""

    hits: float
    right: float
    untouched: float
    kl: float


def plays(model: Path, env: Env) -> Sequence[Group]:
    """Sampled replies to held-out problems."""
    return sit(str(model), env, Choices(500, 2, max_tokens=40), time.perf_counter()).sampled


def distance(groups: Sequence[Group], before: Policy) -> float:
    """KL(after || before) in nats a reply, on what the policy after said."""
    batch = Batch.of(groups)
    total = 0.0
    for rows in batch.micro(8192, "row"):
        part = batch.rows(rows)
        with torch.no_grad():
            was, _, _ = token_logprobs(
                before, part.tokens, part.length, part.trained, part.temperature
            )
        total += float(((part.engine_logprobs - was) * part.trained).sum())
    return total / len(batch)


def seen(model: Path, env: Env, before: Policy) -> Seen:
    """What a model does on both tasks."""
    aimed, other = plays(model, env), plays(model, UNTOUCHED)
    rewards = [r for group in aimed for r in group.rewards]
    return Seen(
        mean(r.total for r in rewards),
        mean(r.correct for r in rewards),
        mean(r.correct for group in other for r in group.rewards),
        distance(other, before),
    )


def arm(recipe: dict[str, Any], folder: Path, seed: int, name: str, own: dict[str, Any]) -> Path:
    """The last stage as an arm has it, from the warm weights; the model."""
    stage = {**recipe["stage"][-1], **own}
    if name == "clean":
        stage["env"] = {**stage["env"], "wrong": 0.0}
    begun = {**recipe, "model": str(folder / f"warm-{seed}" / "model"), "stage": [stage]}
    return trained(begun, folder, f"{name}-{seed}", seed).path


def main() -> None:
    """Train what is missing, then print and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", help="in place of the recipe's")
    parser.add_argument("--folder", type=Path, default=Path("runs/steering"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    recipe = tomllib.loads(given.recipe.read_text(encoding="utf-8"))
    recipe["model"] = given.model or recipe["model"]
    settings = recipe["stage"][-1]["env"]
    env = Working(target=settings["target"], test=500)
    arms: dict[str, dict[str, Any]] = {"rl": {}, "sft": SFT, "clean": SFT}
    found: dict[str, list[Seen]] = {name: [] for name in ("before", *arms)}
    for seed in range(given.seeds):
        first = warm(recipe, given.folder, seed).path
        before = load(str(first / "model"))
        prepare(before)
        found["before"].append(seen(first, env, before))
        for name, own in arms.items():
            found[name].append(seen(arm(recipe, given.folder, seed, name, own), env, before))
    print("| | right and of that length | right | untouched task right | KL there (nats a reply) |")
    print("|---|---|---|---|---|")
    for name, runs in found.items():
        parts = zip(*((run.hits, run.right, run.untouched) for run in runs), strict=True)
        shares = [spread(part) for part in parts]
        print(f"| {name} | {' | '.join(shares)} | {mean(run.kl for run in runs):.3f} |")
    hits = {name: mean(run.hits for run in runs) for name, runs in found.items()}
    sys.exit(int(hits["rl"] < 0.9 or hits["rl"] <= hits["sft"]))


if __name__ == "__main__":
    main()
