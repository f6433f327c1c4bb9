"""A recipe's names as objects, the only place where they become objects: envs and algorithms.

Each stage's parts are checked against each other here, before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from upslope.algorithms import ALGORITHMS
from upslope.algorithms.pass_at_k import PassAtK
from upslope.batch import Algorithm
from upslope.components import build, find
from upslope.curriculum import Heat, Window
from upslope.engines import ENGINES, Opens
from upslope.envs import ENVS
from upslope.envs.mixture import Mixture
from upslope.overrides import MIXTURE, label_of
from upslope.recipe import Recipe, Stage
from upslope.settings import Component
from upslope.sinks import require
from upslope.types import Demonstrates, Env, Problem, Split, UserError


@dataclass(frozen=True)
class RolloutsSettings:
    """``source = {type = "rollouts"}``. ``retire``: a problem whose trajectories so far were right
    in such a share is not played again (no-positive-resampling, arXiv:2510.13786); 0 retires none.
    """

    retire: float = 0.0
    window: Window = Window()
    heat: Heat = Heat()

    def __post_init__(self) -> None:
        if not 0 <= self.retire <= 1:
            raise ValueError(f"retire is a share between 0 and 1, got {self.retire}")


@dataclass(frozen=True)
class RecordedSettings:
    """``source = {type = "recorded"}``: a JSONL ``path``, or the env's own demonstrations."""

    path: str = ""


SOURCES: Mapping[str, type[RolloutsSettings] | type[RecordedSettings]] = {
    "rollouts": RolloutsSettings,
    "recorded": RecordedSettings,
}


def component(kinds: Mapping[str, str], given: Component | None, kind: str, at: str) -> Any:
    """An env or algorithm from its table."""
    if given is None:
        raise UserError(f"{at} is missing: name one, as in [{kind}] type = {next(iter(kinds))!r}")
    return build(find(kinds, given.type, kind), given.settings, at)


def env_of(given: Component | None, at: str = "env") -> Env:
    """An env from its table, or several as one from ``[[env]]``."""
    if given is not None and given.type == MIXTURE:
        return mixture_of(given.settings.get("parts"), at)
    made = component(ENVS, given, "env", at)
    if not isinstance(made, Env):
        raise UserError(
            f"{at}.type={type_of(given)!r} is not an env: it needs problems, play, rewards"
        )
    return made


def mixture_of(parts: Any, at: str) -> Mixture:
    """Several envs from their tables: each has a ``label`` and a ``weight`` beside its settings."""
    if not isinstance(parts, list) or not parts or not all(isinstance(p, Mapping) for p in parts):
        raise UserError(f"{at} of several must be a list of tables: write [[env]] above each")
    envs, weights = dict[str, Env](), dict[str, float]()
    for part in parts:
        label, weight = label_of(part), part.get("weight", 1.0)
        if label in envs:
            raise UserError(f'two envs are called {label}: give each its own label = "..."')
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < inf:
            raise UserError(f"{at}.{label}.weight must be a number above 0, got {weight!r}")
        own = {k: v for k, v in part.items() if k not in ("label", "weight", "type")}
        if "type" not in part:
            raise UserError(f'{at}.{label or "?"} has no type: write type = "..." in its table')
        if not isinstance(part.get("label", ""), str) or set(label) & set("/."):
            raise UserError(f"{at}: the label {part['label']!r} must be text without / and dots")
        envs[label] = env_of(Component(type=part["type"], **own), f"{at}.{label}")
        weights[label] = float(weight)
    return Mixture(envs, weights)


def algorithm_of(given: Component | None, at: str = "algorithm") -> Algorithm:
    """An algorithm from its table."""
    made = component(ALGORITHMS, given, "algorithm", at)
    if not isinstance(made, Algorithm):
        raise UserError(
            f"{at}.type={type_of(given)!r} is not an algorithm: see Algorithm in upslope.batch"
        )
    return made


def engine_of(given: Component) -> Opens:
    """An engine's settings from its table."""
    made = component(ENGINES, given, "engine", "engine")
    if not isinstance(made, Opens):
        raise UserError(f"engine.type={type_of(given)!r} is not an engine: it needs open")
    return made


def type_of(given: Component | None) -> str:
    """What its table calls it."""
    return given.type if given else ""


@dataclass(frozen=True)
class Built:
    """A stage with its env and algorithm, checked against each other before a model is loaded."""

    stage: Stage
    env: Env
    algorithm: Algorithm
    made: dict[Split, Sequence[Problem]] = field(default_factory=dict)

    @property
    def weights(self) -> Mapping[str, float]:
        """How often each of several envs has its turn; nothing for a single one."""
        return self.env.weights if isinstance(self.env, Mixture) else {}

    def problems(self, split: Split) -> Sequence[Problem]:
        """The env's problems of a split, made once."""
        if split not in self.made:
            self.made[split] = self.env.problems(split)
        return self.made[split]


def built(recipe: Recipe) -> list[Built]:
    """All stages; raises UserError for what cannot work whatever the model is."""
    require(recipe.sinks)
    out = []
    for stage in recipe.stages():
        at = f"stage.{stage.name}." if recipe.stage else ""
        one = Built(
            stage,
            env_of(stage.env, f"{at}env"),
            algorithm_of(stage.algorithm, f"{at}algorithm"),
        )
        refuse(one, at)
        out.append(one)
    return out


def refuse(one: Built, at: str) -> None:
    """Contradictions between a stage's parts."""
    stage, name = one.stage, one.stage.algorithm.type
    compares = "equal_rewards_no_signal" in one.algorithm.claims
    if stage.source.type not in SOURCES:
        raise UserError(
            f"{at}source.type={stage.source.type!r} is unknown: use one of {sorted(SOURCES)}"
        )
    source = build(SOURCES[stage.source.type], stage.source.settings, f"{at}source")
    if source == RecordedSettings() and not isinstance(one.env, Demonstrates):
        raise UserError(
            f"env {stage.env.type} writes no demonstrations: give {at}source.path a JSONL file"
        )
    if stage.source.type == "rollouts" and compares and stage.rollout.group == 1:
        raise UserError(
            f"{at}rollout.group=1 leaves {name} nothing to compare a reward with, so nothing "
            "would be learned: use at least 2, or the algorithm reinforce"
        )
    if isinstance(one.algorithm, PassAtK) and stage.rollout.group <= one.algorithm.k:
        raise UserError(
            f"{at}rollout.group={stage.rollout.group} has no more than one set of "
            f"{at}algorithm.k={one.algorithm.k}, so that nothing is compared: use a larger group"
        )
    if stage.source.type != "rollouts" and "greedy" in one.algorithm.needs:
        raise UserError(
            f"{at}algorithm {name} needs a greedy reply to each problem, which {stage.source.type} "
            "data does not have: use rollouts as the source"
        )
    if stage.source.type == "recorded" and compares:
        raise UserError(
            f"{at}algorithm {name} compares the members of a group and recorded groups have one "
            "member: use sft, or rollouts as the source"
        )
    if stage.source.type == "rollouts" and name == "sft":
        raise UserError(
            f'{at}algorithm sft learns from given replies: set {at}source.type = "recorded"'
        )
