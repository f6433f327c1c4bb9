"""A recipe's names as objects, the only place where they become objects: envs and algorithms.

Each stage's parts are checked against each other here, before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from upslope.algorithms import ALGORITHMS
from upslope.algorithms.awr import AWR
from upslope.batch import Algorithm
from upslope.components import build, find
from upslope.demonstrations import Demonstration, read_demonstrations, sets
from upslope.engines import ENGINES, Opens
from upslope.envs import ENVS
from upslope.envs.mixture import Mixture
from upslope.overrides import MIXTURE, label_of
from upslope.provenance import MixedSettings, RolloutsSettings, SourceSettings, settings_of
from upslope.recipe import Recipe, Stage
from upslope.settings import Component
from upslope.sinks import require
from upslope.types import Demonstrates, Env, Problem, Split, UserError


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
    read: list[Demonstration] = field(default_factory=list)

    @property
    def source(self) -> SourceSettings:
        """Where its groups come from."""
        return settings_of(self.stage.source, "source")

    @property
    def looped(self) -> Stage:
        """The stage as the loop takes it: who did not answer with this step's weights is corrected
        for as a stale policy is, recorded answers too, and nobody where it does not matter who did.
        """
        rollout, others = self.stage.rollout, not isinstance(self.source, RolloutsSettings)
        lag = max(rollout.max_staleness, int(others))
        lag = 0 if "any_policy" in self.algorithm.claims else lag
        if lag == rollout.max_staleness:
            return self.stage
        lagging = rollout.model_copy(update={"max_staleness": lag})
        return self.stage.model_copy(update={"rollout": lagging})

    def recorded(self) -> Sequence[Demonstration]:
        """The plays that its source has recorded, read once; none for rollouts."""
        settings = self.source
        if self.read or isinstance(settings, RolloutsSettings):
            return self.read
        if settings.path:
            known = {problem.id: problem for problem in self.problems("train")}
            self.read.extend(read_demonstrations(Path(settings.path), known))
        else:
            assert isinstance(self.env, Demonstrates), "refuse lets no other pass"
            self.read.extend(Demonstration(*pair) for pair in self.env.demonstrations("train"))
        return self.read

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
    source = settings_of(stage.source, f"{at}source")
    if isinstance(source, RolloutsSettings | MixedSettings):
        refuse_rollouts(one, source, at)
    if isinstance(source, RolloutsSettings):
        return
    if not source.path and not isinstance(one.env, Demonstrates):
        raise UserError(
            f"env {stage.env.type} writes no demonstrations: give {at}source.path a JSONL file"
        )
    if not source.path and compares:
        raise UserError(
            f"{at}algorithm {name} compares the members of a group and recorded groups have one "
            f"member: use sft, rollouts as the source, or a {at}source.path to pairs or groups"
        )


def refuse_rollouts(one: Built, source: RolloutsSettings | MixedSettings, at: str) -> None:
    """What cannot be learned from rollouts, or not with weights that are loaded now and then."""
    stage, name, claims = one.stage, one.stage.algorithm.type, one.algorithm.claims
    rollouts = source.rollouts if isinstance(source, MixedSettings) else source
    if "equal_rewards_no_signal" in claims and stage.rollout.group == 1:
        raise UserError(
            f"{at}rollout.group=1 leaves {name} nothing to compare a reward with, so nothing "
            "would be learned: use at least 2, or the algorithm reinforce"
        )
    if name == "sft":
        raise UserError(
            f'{at}algorithm sft learns from given replies: set {at}source.type = "recorded"'
        )
    if rollouts.sync == 1:
        return
    if "any_policy" not in claims or stage.rollout.max_staleness:
        raise UserError(
            f"{at}source.sync={rollouts.sync} is for algorithms that take answers of any policy, "
            "such as dpo, without max_staleness: for others set rollout.max_staleness instead"
        )
    kept = {"evaluation": stage.evaluation.every, "checkpoint": stage.checkpoint.every}
    for key, every in kept.items():
        if every % rollouts.sync:
            raise UserError(
                f"{at}{key}.every={every} would load weights between the loads of every "
                f"{at}source.sync={rollouts.sync} steps: make it a multiple"
            )


def refuse_recorded(one: Built) -> None:
    """Plays that say too little for the algorithm that is to learn from them."""
    name, claims, groups = one.stage.algorithm.type, one.algorithm.claims, sets(one.recorded())
    if not groups:
        return
    alone = all(len(members) == 1 for members in groups)
    if isinstance(one.algorithm, AWR) and one.algorithm.baseline == "group" and alone:
        raise UserError(
            "algorithm awr measures an answer against its group and the recorded groups have one "
            'member each, so that all would count alike: set algorithm.baseline = "batch"'
        )
    if "equal_rewards_no_signal" in claims and alone:
        raise UserError(
            f"algorithm {name} compares the members of a group and the recorded groups have one "
            'member each: give pairs, or rows with the same "group", or use awr, raft, kto or sft'
        )
    unscored = next((one for members in groups for one in members if not one.scored), None)
    if "any_policy" not in claims and unscored:
        raise UserError(
            f"algorithm {name} weighs answers by how likely they were, and the recorded play of "
            f'problem {unscored.problem.id!r} has no "logprobs": give them, or use awr, raft or dpo'
        )
