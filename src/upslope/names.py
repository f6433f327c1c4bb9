"""A recipe's names as objects, the only place where they become objects: envs, algorithms,
rewards, audits, engines.

How a stage's objects go together is in ``stages.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from upslope.algorithms import ALGORITHMS
from upslope.audit import AUDITS
from upslope.audit.settings import Alarms
from upslope.batch import Algorithm
from upslope.components import build, find
from upslope.engines import ENGINES, Opens
from upslope.envs import ENVS
from upslope.envs.mixture import Mixture
from upslope.overrides import MIXTURE, label_of
from upslope.rewards import REWARDS, OpensReward
from upslope.settings import Component
from upslope.types import Env, UserError


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


def reward_of(given: Component, at: str = "reward") -> OpensReward:
    """A reward's settings from its table."""
    made = component(REWARDS, given, "reward", at)
    if not isinstance(made, OpensReward):
        raise UserError(f"{at}.type={type_of(given)!r} is not a reward: it needs open")
    return made


def audit_of(given: Component, at: str = "audit") -> Alarms:
    """What watches a reward, from its table."""
    made = component(AUDITS, given, "audit", at)
    if not isinstance(made, Alarms):
        raise UserError(
            f"{at}.type={type_of(given)!r} is no audit: it is one of {', '.join(AUDITS)}"
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
