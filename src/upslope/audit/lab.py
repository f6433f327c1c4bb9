"""``upslope audit lab``: a policy, its replies, proxies of gold, and what following each does.

Every piece is kept in the lab's folder and made once, so that a lab that was stopped goes on. What
it all comes to is of ``lab_results`` and ``lab_report``.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from upslope import machine
from upslope.audit.climb import Arm, Climbed, Followed, arms_of, climbed
from upslope.audit.gold import gold_of
from upslope.audit.lab_recipe import LabRecipe
from upslope.audit.pool import Pool, pool_of
from upslope.audit.proxies import (
    Kind,
    council,
    gathered,
    grid,
    mean_of,
    scored,
    siblings,
    trained,
)
from upslope.files import replace_file
from upslope.launch import train_recipe
from upslope.ledger import cpu_seconds
from upslope.models.reward_folder import load_reward_model, save_reward_model
from upslope.names import env_of
from upslope.preferences.gathered import Gathered
from upslope.recipe import read
from upslope.types import Demonstrates, Env, UserError

Say = Callable[[str], None]
MEAN = "mean-of-weights"
SECONDS = "seconds.json"


@dataclass(frozen=True)
class Lab:
    """A recipe and its folder."""

    recipe: LabRecipe

    @property
    def folder(self) -> Path:
        return Path(self.recipe.out)

    @property
    def policy(self) -> Path:
        return self.folder / "runs" / "policy" / "model"

    @cached_property
    def env(self) -> Env:
        return env_of(self.recipe.env)

    @cached_property
    def pool(self) -> Pool:
        """Replies with gold, sampled once."""
        own, file = self.recipe.pool, self.folder / "pool.jsonl"
        tokens, seed = self.recipe.max_tokens, self.recipe.seed
        return pool_of(self.policy, self.env, own.problems, own.replies, tokens, seed, file)

    @cached_property
    def pairs(self) -> Gathered:
        return gathered(self.recipe, self.policy, self.env, self.folder / "pairs.json")

    def proxy(self, name: str) -> Path:
        """The folder of one, with its model and its scores of the pool."""
        return self.folder / "proxies" / name

    def kinds(self) -> list[Kind]:
        """All proxies, each once."""
        every = (*council(self.recipe), *siblings(self.recipe), *grid(self.recipe))
        return list(dict.fromkeys(every))

    def arms(self) -> list[Arm]:
        """All runs of RL."""
        if not self.recipe.climb.steps:
            return []
        own = self.recipe.proxies
        clean = [Kind(own.models[0], own.pairs[-1], 0.0, i, i) for i in range(self.recipe.seeds)]
        found = [[self.followed(kind) for kind in kinds] for kinds in (clean, council(self.recipe))]
        return arms_of(self.recipe, *found)

    def followed(self, kind: Kind) -> Followed:
        """A trained proxy, for RL."""
        place = self.proxy(kind.name)
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        return Followed(kind.seed, place / "model", about["held_out_loss"])

    def imitate(self) -> str:
        """The policy that all begin with, trained where there is none."""
        if not isinstance(self.env, Demonstrates):
            raise UserError(
                f"{type(self.env).__name__} demonstrates nothing for a policy to imitate: choose "
                "another env"
            )
        if gold_of(self.env) is not None:
            raise UserError(
                f"{type(self.env).__name__} has a true reward beside its own, and the lab takes an "
                "env's own for gold: choose another env"
            )
        if not self.policy.is_dir():
            train_recipe(read(self._imitation()), lambda line: None)
        return "the policy"

    def prepare(self) -> str:
        """Replies and pairs, in files before workers read them."""
        gold, pairs = self.pool.gold, self.pairs
        return (
            f"{gold.size:,} replies, gold {gold.mean():.3f}; {len(pairs.train):,} pairs, "
            f"{len(pairs.validation)} to stop by"
        )

    def teach(self, kind: Kind) -> str:
        """A proxy and its scores, where they are not there."""
        place = self.proxy(kind.name)
        if not (place / "about.json").is_file():
            pairs, pool, began = self.pairs, self.pool, time.process_time()
            done = trained(self.recipe, kind, pairs)
            save_reward_model(done.model, place / "model")
            scored(done.model, pool, place / "scores.npy")
            seconds = time.process_time() - began
            about = {"held_out_loss": done.loss, "best_update": done.best, "seconds": seconds}
            replace_file(place / "about.json", json.dumps(about).encode())
        return f"proxy {kind.name}"

    def average(self) -> str:
        """The mean of siblings' weights, where it is not there."""
        place = self.proxy(MEAN)
        if not (place / "scores.npy").is_file():
            models = [
                load_reward_model(self.proxy(k.name) / "model") for k in siblings(self.recipe)
            ]
            whole = mean_of(self.recipe, models, self.pairs)
            save_reward_model(whole, place / "model")
            scored(whole, self.pool, place / "scores.npy")
        return "the mean of proxies' weights"

    def climb(self, arm: Arm) -> Climbed:
        """A run of RL, read where it has been made."""
        return climbed(self.recipe, arm, self.policy, self.env, self.folder / "climb")

    def _imitation(self) -> dict[str, Any]:
        own = self.recipe.imitation
        return {
            "name": "policy",
            "model": self.recipe.model,
            "seed": self.recipe.seed,
            "runs": str(self.folder / "runs"),
            "env": self.recipe.env.model_dump(),
            "algorithm": {"type": "sft"},
            "source": {"type": "recorded"},
            "rollout": {
                "problems": own.problems,
                "group": 1,
                "max_tokens": self.recipe.max_tokens,
            },
            "learner": {"lr": own.lr, "warmup": own.steps // 8, "micro_tokens": 16384},
            "evaluation": {"problems": 64},
            "checkpoint": {"every": 0},
            "stop": {"steps": own.steps},
            "machine": {"threads": 1},
            "check": {"problems": 1},
        }


def make(recipe: LabRecipe, jobs: int, say: Say) -> Lab:
    """All pieces of a lab, ``jobs`` at once where they do not need each other."""
    lab, jobs = Lab(recipe), jobs or machine.cores()
    lab.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    clock = Clock(lab.folder / SECONDS, say)
    clock.time("policy", lab.imitate)
    clock.time("pool and pairs", lab.prepare)
    tasks = [("teach", kind) for kind in lab.kinds()]
    clock.time("proxies", lambda: all_done(lab, tasks, jobs, say))
    clock.time("mean of weights", lab.average)
    clock.time("RL", lambda: all_done(lab, [("climb", arm) for arm in lab.arms()], jobs, say))
    return lab


def all_done(lab: Lab, tasks: Sequence[tuple[str, Any]], jobs: int, say: Say) -> str:
    """Every task, in processes of their own where more than one runs at once."""
    if jobs == 1:
        for task in tasks:
            say(f"  {_done(lab.recipe, lab, *task)}")
        return f"{len(tasks)} done"
    fresh = multiprocessing.get_context("spawn")  # a fork of torch's threads may hang
    with ProcessPoolExecutor(jobs, mp_context=fresh) as pool:
        futures = [pool.submit(_done, lab.recipe, None, *task) for task in tasks]
        for future in as_completed(futures):
            say(f"  {future.result()}")
    return f"{len(tasks)} done"


def _done(recipe: LabRecipe, lab: Lab | None, what: str, one: Any) -> str:
    lab = lab or Lab(recipe)
    torch.set_num_threads(1)
    if what == "teach":
        return lab.teach(one)
    found = lab.climb(one)
    last = found.looks[-1]
    return (
        f"RL, {found.name} {found.seed}: gold {found.looks[0].gold.mean:.3f} to "
        f"{last.gold.mean:.3f}, KL {last.kl.mean:.1f}, {found.seconds:.0f} CPU-seconds"
    )


class Clock:
    """Seconds and CPU-seconds of each part, over all times that the lab was run."""

    def __init__(self, file: Path, say: Say) -> None:
        self.file, self.say = file, say

    def time(self, name: str, work: Callable[[], str]) -> None:
        """Do it, and add what it took."""
        began, cpu = time.perf_counter(), cpu_seconds()
        said = work()
        took = [time.perf_counter() - began, cpu_seconds() - cpu]
        known = read_seconds(self.file)
        before = known.get(name, [0.0, 0.0])
        known[name] = [a + b for a, b in zip(before, took, strict=True)]
        replace_file(self.file, json.dumps(known).encode())
        self.say(f"{name}: {said}; {took[0]:.0f} s, {took[1]:.0f} CPU-seconds")


def read_seconds(file: Path) -> dict[str, list[float]]:
    """Seconds and CPU-seconds by part."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
