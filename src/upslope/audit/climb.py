"""RL on a proxy, looked at on the way: gold, the proxy's own reward and the KL to where it began.

Each arm is an ordinary run of a recipe; what the looks see is graded when it has ended.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from upslope.audit.followed import Seen
from upslope.audit.lab_recipe import LabRecipe
from upslope.batch import Batch
from upslope.files import replace_file
from upslope.launch import train_recipe
from upslope.models.load import load
from upslope.models.logprobs import prepare, token_logprobs
from upslope.models.policy import Policy
from upslope.recipe import read
from upslope.types import Action, Env, Group, Metrics

TOKENS = 16384


class Arm(NamedTuple):
    """A run to make. ``of``: what it follows; ``reward`` and ``kl`` are the recipe's."""

    name: str
    seed: int
    reward: Mapping[str, Any]
    kl: float = 0.0


class Look(NamedTuple):
    """What a step's replies were, of the weights before its update: means with standard errors."""

    step: int
    kl: Seen
    gold: Seen
    proxy: Seen


class Climbed(NamedTuple):
    """A finished arm. ``audited``: gold rewards of the audited plays of each step, as their number
    and mean; ``spread``: the deviation of a play's gold. ``alarm``: the first step at which the
    run's own alarms rang, 0 for never."""

    name: str
    seed: int
    looks: Sequence[Look]
    audited: Sequence[tuple[int, int, float]]
    spread: float
    alarm: int
    seconds: float


class Followed(NamedTuple):
    """A proxy that RL may follow: its seed, its folder and its loss on held-out pairs."""

    seed: int
    path: Path
    loss: float


def arms_of(recipe: LabRecipe, clean: Sequence[Followed], noisy: Sequence[Followed]) -> list[Arm]:
    """Each clean proxy alone; the one that did best on held-out pairs with a KL penalty, and as
    PAR; all as an ensemble; the best noisy one alone, all of these."""

    def model(one: Followed) -> dict[str, Any]:
        return {"type": "model", "path": str(one.path)}

    def several(proxies: Sequence[Followed]) -> dict[str, Any]:
        members = {f"m{one.seed}": model(one) for one in proxies}
        return {"type": "ensemble", "members": members, "how": "variance", "k": recipe.proxies.k}

    best, other = (min(proxies, key=lambda one: one.loss) for proxies in (clean, noisy))
    return [
        *(Arm("single", one.seed, model(one)) for one in clean[: recipe.climb.seeds]),
        Arm("KL penalty", best.seed, model(best), recipe.climb.kl),
        Arm("PAR", best.seed, {"type": "par", "of": model(best), "replies": 2}),
        Arm("ensemble", best.seed, several(clean)),
        Arm("noisy single", other.seed, model(other)),
        Arm("noisy ensemble", other.seed, several(noisy)),
    ]


@dataclass
class Looks:
    """A watch that keeps the groups of every few steps."""

    every: int
    kept: list[tuple[int, Sequence[Group]]] = field(default_factory=list)

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        """After each step; an evaluation has no groups."""
        if groups and (step - 1) % self.every == 0:
            self.kept.append((step - 1, groups))
        return ()


def climbed(recipe: LabRecipe, arm: Arm, policy: Path, env: Env, folder: Path) -> Climbed:
    """An arm's run and what was seen on the way, kept in a file and read from it again."""
    file = folder / f"{arm.name.replace(' ', '-')}-{arm.seed}.json"
    if file.is_file():
        return _read(json.loads(file.read_text(encoding="utf-8")))
    watch = Looks(recipe.climb.every)
    run = train_recipe(
        read(_recipe(recipe, arm, policy, folder)), lambda line: None, watches=(watch,)
    )
    rows = run.metrics()
    reference = load(str(policy), 0)
    prepare(reference)
    golds = [asyncio.run(_golds(groups, env)) for _, groups in watch.kept]
    looks = [
        Look(step, over(kls(groups, reference)), over(by_group(gold)), over(by_group(own)))
        for (step, groups), gold in zip(watch.kept, golds, strict=True)
        for own in [[[r.total for r in g.rewards if r.valid] for g in groups]]
    ]
    spread = float(np.mean([np.std(np.concatenate(gold)) for gold in golds]))
    audited = [
        (row["step"] - 1, int(row["audit/plays"]), row["audit/gold"])
        for row in rows
        if "audit/plays" in row
    ]
    alarm = next((row["step"] for row in rows if row.get("audit/alarm")), 0)
    done = run.result()
    seconds = done.cpu_seconds if done else 0.0
    found = Climbed(arm.name, arm.seed, looks, audited, spread, alarm, seconds)
    replace_file(file, json.dumps(found).encode())
    return found


def _read(kept: Sequence[Any]) -> Climbed:
    name, seed, looks, audited, *rest = kept
    seen = [Look(look[0], *(Seen(*pair) for pair in look[1:])) for look in looks]
    return Climbed(name, seed, seen, [(a, b, c) for a, b, c in audited], *rest)


def _recipe(recipe: LabRecipe, arm: Arm, policy: Path, folder: Path) -> dict[str, Any]:
    climb = recipe.climb
    rows = climb.problems * climb.group
    return {
        "name": f"{arm.name.replace(' ', '-')}-{arm.seed}",
        "model": str(policy),
        "seed": recipe.seed + arm.seed,
        "runs": str(folder / "runs"),
        "env": recipe.env.model_dump(),
        "algorithm": {"type": "grpo", "kl": {"coefficient": arm.kl}},
        "reward": dict(arm.reward),
        "audit": {"type": "alarms", "share": climb.share},
        "rollout": {
            "problems": climb.problems,
            "group": climb.group,
            "max_tokens": recipe.max_tokens,
            "rows": max(2, rows),
        },
        "learner": {"lr": climb.lr, "micro_tokens": TOKENS},
        "evaluation": {"problems": 2},
        "checkpoint": {"every": 0},
        "stop": {"steps": climb.steps},
        "machine": {"threads": 1},
        "check": {"problems": 1},
    }


async def _golds(groups: Sequence[Group], env: Env) -> list[list[float]]:
    """Gold rewards of each group's plays."""
    found = [await env.rewards(g.problem, g.trajectories) for g in groups]
    return [[r.total for r in rewards if r.valid] for rewards in found]


def by_group(values: Sequence[Sequence[float]]) -> list[float]:
    """Mean of each group that has any."""
    return [float(np.mean(own)) for own in values if len(own)]


@torch.no_grad()
def kls(groups: Sequence[Group], reference: Policy) -> list[float]:
    """Mean of log p / p of the reference over each group's replies: what was sampled, by what
    sampled it, so that the estimate has no bias at temperature 1."""
    batch, found = Batch.of(groups), list[torch.Tensor]()
    for rows in batch.micro(TOKENS, "row"):
        part = batch.rows(rows)
        known, _, _ = token_logprobs(
            reference, part.tokens, part.length, part.trained, part.temperature
        )
        found.append(((part.engine_logprobs - known.cpu()) * part.trained).sum(1))
    ratio = torch.cat(found).double()
    return [float(ratio[batch.group == g].mean()) for g in range(len(groups))]


def over(values: Sequence[float]) -> Seen:
    """Mean over problems, and its standard error."""
    return Seen(float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5)
