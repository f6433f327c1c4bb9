"""Proxies of a gold reward: reward models of several sizes that learn from one policy's replies.

Which there are, how each learns, and what it scores the pool.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from upslope.audit.lab_recipe import LabRecipe
from upslope.audit.pool import Pool
from upslope.files import replace_file
from upslope.ledger import Ledger
from upslope.models.load import load
from upslope.models.reward_model import RewardModel, averaged, reward_model_of
from upslope.preferences.annotators import Annotator
from upslope.preferences.gathered import Gathered, from_env, labelled
from upslope.preferences.learned import Compared, PairLoss
from upslope.preferences.pair import Pair
from upslope.preferences.recipe import Pairs
from upslope.preferences.training import Trained, scaled, tempered, train
from upslope.seeds import seed_of
from upslope.types import Env

CENTRED = PairLoss(centring=0.001)
TOKENS = 16384  # in a pass that scores


@dataclass(frozen=True)
class Kind:
    """One proxy. ``start``: the seed of its first weights, ``seed`` of the order that it sees its
    pairs in; ``noise``: the share of these that is turned around, the same ones for all."""

    model: str
    pairs: int
    noise: float
    start: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        size = self.model.rpartition(":")[2].replace("/", "-")
        noise = f"-noise{self.noise:g}" if self.noise else ""
        return f"{size}-{self.pairs}{noise}-start{self.start}-seed{self.seed}"


def grid(recipe: LabRecipe) -> list[Kind]:
    """Every size with every amount of data and every seed, without noise."""
    own = recipe.proxies
    return [
        Kind(model, pairs, 0.0, seed, seed)
        for model, pairs, seed in product(own.models, own.pairs, range(recipe.seeds))
    ]


def council(recipe: LabRecipe) -> list[Kind]:
    """Members of an ensemble of the smallest, from noisy labels: each with weights of its own."""
    own = recipe.proxies
    every = range(own.members)
    return [Kind(own.models[0], own.noisy, own.noise, one, one) for one in every]


def siblings(recipe: LabRecipe) -> list[Kind]:
    """The same, but with the first weights alike, so that their mean is a model."""
    own = recipe.proxies
    every = range(own.members)
    return [Kind(own.models[0], own.noisy, own.noise, 0, one) for one in every]


def gathered(recipe: LabRecipe, policy: Path, env: Env, file: Path) -> Gathered:
    """Pairs of the policy's replies for all proxies, labelled by gold, kept in a file and read from
    it again; who learns from fewer has the first ones."""
    if not file.is_file():
        own = recipe.proxies
        pairs = Pairs(
            policy=str(policy),
            train=max(*own.pairs, own.noisy),
            test=1,
            max_tokens=recipe.max_tokens,
            temperature=own.temperature,
        )
        found = from_env(env, recipe.env.type, pairs, recipe.seed)
        parts = {"train": found.train, "validation": found.validation[: own.held]}
        kept = {
            part: [(p.problem.id, p.chosen, p.rejected) for p in pairs]
            for part, pairs in parts.items()
        }
        replace_file(file, json.dumps(kept).encode())
    parts = {}
    for part, pairs in json.loads(file.read_text(encoding="utf-8")).items():
        known = {problem.id: problem for problem in env.problems(part)}
        parts[part] = [Pair(known[name], won, lost, {}) for name, won, lost in pairs]
    return Gathered(parts["train"], parts["validation"], ())


def trained(recipe: LabRecipe, kind: Kind, pairs: Gathered) -> Trained:
    """A proxy that has learned, tempered and whitened."""
    settings, start = recipe.training, seed_of("proxy", recipe.seed, kind.start)
    model = reward_model_of(load(kind.model, start % 2**31), ["reward"])
    by = Annotator(flips=kind.noise, seed=seed_of("lab", recipe.seed))
    lesson, held = (
        Compared.of(model, [*labelled(some, by)], CENTRED)
        for some in (pairs.train[: kind.pairs], pairs.validation)
    )
    seed = seed_of("proxy's order", recipe.seed, kind.seed)
    done = train(model, lesson, held, settings, seed, Ledger(), lambda line: None)
    tempered(done.model, held, settings.micro_tokens)
    return replace(done, model=scaled(done.model, lesson, settings.micro_tokens))


def mean_of(recipe: LabRecipe, models: Sequence[RewardModel], pairs: Gathered) -> RewardModel:
    """The mean of their weights (WARM), whitened."""
    whole = averaged(models)
    lesson = Compared.of(whole, pairs.train[: recipe.proxies.noisy], CENTRED)
    return scaled(whole, lesson, recipe.training.micro_tokens)


def scored(model: RewardModel, pool: Pool, file: Path) -> None:
    """A proxy's normalised score of each reply of the pool, into a file."""
    raw = pool.scores(model, TOKENS)
    normal = (raw - float(model.normal.mean[0])) / float(model.normal.std[0])
    np.save(file, normal.astype(np.float32))
