"""A run's settings: a TOML file, under dotted overrides, resolved into stages.

Settings only: an env's, algorithm's or source's own settings stay raw here and are checked against
its dataclass by ``components.build``. No objects are made, no model is looked at.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from upslope.overrides import leaves, merge, mixed, tree_of
from upslope.presets import written_out
from upslope.sentences import expected, first_error, leaves_of, meaning, shown, unknown
from upslope.settings import Check, Component, Lora, Machine, Name, Sections, Sink, Text
from upslope.types import UserError

M = TypeVar("M", bound=BaseModel)
Tree = dict[str, Any]


class Stage(Sections):
    """One stage with everything resolved: what the loop runs."""

    name: Name
    env: Annotated[Component, "problems and rewards: a table with a `type`"]
    algorithm: Annotated[Component, "what is learned from rewards: a table with a `type`"]

    @property
    def updates(self) -> int:
        """Optimiser steps up to ``stop.steps``; 0 where that is no bound."""
        return self.stop.steps * self.learner.updates * self.learner.epochs


class Recipe(Sections):
    """A whole run. Its tables are the base that each ``[[stage]]`` is merged onto."""

    name: Annotated[Name, "name of the run's directory; default the file's own"] = "run"
    model: Annotated[Text, "a known model, `ladder:<size>`, a hub id or a local folder"]
    seed: Annotated[int, "what all randomness derives from"] = 0
    runs: Annotated[Text, "folder of run directories"] = "runs"
    env: Annotated[Component | None, "problems and rewards"] = None
    algorithm: Annotated[Component | None, "what is learned from rewards"] = None
    engine: Annotated[Component, "what samples replies"] = Component(type="local")
    sinks: Annotated[tuple[Sink, ...], "where metrics go besides the run's own files"] = ()
    lora: Lora = Lora()
    machine: Machine = Machine()
    check: Check = Check()
    stage: Annotated[tuple[dict[str, Any], ...], "stages, each a name and changes"] = ()

    def stages(self) -> list[Stage]:
        """The stages with all settings resolved; one named "train" where none is given.

        Raises UserError for a stage's wrong settings and for contradictions.
        """
        base = {k: v for k, v in _plain(self).items() if k in Stage.model_fields and k != "name"}
        tables = self.stage or ({"name": "train"},)
        stages = [_stage(base, table, i) for i, table in enumerate(tables)]
        names = [s.name for s in stages]
        if self.lora.targets and not self.lora.rank:
            raise UserError("lora.targets is of an adapter that there is none of: set lora.rank")
        for stage in stages:
            at = f"stage.{stage.name}." if self.stage else ""
            if names.count(stage.name) > 1:
                raise UserError(f"two stages are named {stage.name}: give each its own name")
            _refuse_contradictions(stage, self.machine, at)
            _refuse_schedule(stage, at)
        return stages


class Setting(NamedTuple):
    """A row of the settings' documentation."""

    key: str
    type: str
    default: str
    meaning: str


def read(given: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file or a mapping, under ``key=value`` overrides; values are TOML.

    Raises UserError, one sentence, for whatever is wrong with it.
    """
    raw = mixed(given if isinstance(given, Mapping) else _load(Path(given)))
    if isinstance(raw.get("stage"), list):
        raw["stage"] = [mixed(t) if isinstance(t, Mapping) else t for t in raw["stage"]]
    tree = tree_of(overrides)
    changes = tree.pop("stage", {})
    if not isinstance(changes, Mapping):
        raise UserError("stages are changed one at a time: write stage.<name>.<key>=value")
    raw = merge(raw, tree)
    if changes:
        raw["stage"] = _change_stages(raw.get("stage", []), changes)
    recipe = _validated(Recipe, written_out(raw, overridden="preset" in tree))
    stages = recipe.stages()
    for key, value in leaves({k: v for k, v in tree.items() if k != "name"}):
        _refuse_hidden(key, value, recipe.stage, stages)
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as TOML with every setting written out; ``read`` gives an equal recipe back."""
    return tomli_w.dumps(_plain(recipe))


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ, their names aside; a stage's begin ``stage.``."""
    trees = [_plain(recipe) for recipe in (old, new)]
    for tree in trees:
        tree["stage"] = {stage["name"]: stage for stage in tree.get("stage", [])}
        del tree["name"], tree["runs"]
    ours, theirs = (dict(leaves(tree)) for tree in trees)
    absent = object()
    return [k for k in {**ours, **theirs} if ours.get(k, absent) != theirs.get(k, absent)]


def describe() -> list[Setting]:
    """Every setting with its type, default and meaning; those outside a table come first."""
    rows = []
    for key, field in leaves_of(Recipe).items():
        default = "required" if field.is_required() else _default(field.default)
        kind = expected(field.annotation, field.metadata)
        rows.append(Setting(key, kind, default, meaning(field)))
    return sorted(rows, key=lambda row: "." in row.key)


def explain(key: str) -> Setting:
    """One row of ``describe``; raises UserError for a key that does not exist."""
    rows = {row.key: row for row in describe()}
    if key not in rows:
        raise unknown("setting", key, [*rows])
    return rows[key]


def settings_count() -> int:
    """How many settings there are, not counting those of components and the list of stages."""
    kinds = {key: field.annotation for key, field in leaves_of(Recipe).items()}
    components = ("env", "algorithm", "source", "reward", "audit", "engine", "stage")
    return sum(k not in components for k in kinds)


def _default(value: Any) -> str:
    """A default as TOML shows it; nothing for a component that has to be chosen."""
    if isinstance(value, Component):
        return shown(value.type)
    return "" if value is None else shown(value)


def _load(path: Path) -> Tree:
    """The TOML file's table; a recipe without a name takes the file's."""
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except FileNotFoundError as error:
        raise UserError(f"there is no recipe {path}") from error
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).rstrip(")").partition(" (at ")
        raise UserError(f"{path} is not TOML at {place}: {message}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not TOML: it is not UTF-8 text") from error
    return {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("-._") or "run"} | raw


def _plain(model: BaseModel) -> Tree:
    """A model as TOML's own types."""
    plain = model.model_dump(exclude_none=True)
    if not plain.get("stage", True):
        del plain["stage"]
    return plain


def _validated(model: type[M], raw: Mapping[str, Any], at: str = "") -> M:
    """A model from raw TOML values, by JSON: strict JSON takes a list for a tuple."""
    try:
        return model.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        raise first_error(error, model, at) from error


def _stage(base: Tree, table: Mapping[str, Any], place: int) -> Stage:
    """A stage's table merged onto the base."""
    name = table.get("name")
    if not isinstance(name, str):
        raise UserError(f'stage {place + 1} has no name: write name = "..." in its table')
    for key in table:
        if key in Recipe.model_fields and key not in Stage.model_fields:
            raise UserError(f"a stage cannot change {key}: set it once, above all [[stage]]")
    return _validated(Stage, merge(base, table), f"stage.{name}." if len(table) > 1 else "")


def _change_stages(tables: Any, changes: Mapping[str, Any]) -> list[Any]:
    """The stage tables under their overrides."""
    if not isinstance(tables, list) or not all(isinstance(t, Mapping) for t in tables):
        raise UserError("stage must be a list of tables: write [[stage]] above each")
    changed = {t.get("name"): dict(t) for t in tables}
    for name, change in changes.items():
        if name not in changed:
            raise unknown("stage", name, [str(n) for n in changed])
        if not isinstance(change, Mapping):
            raise UserError(f"stage.{name} is a table: write stage.{name}.<key>=value")
        changed[name] = merge(changed[name], change)
    return [*changed.values()]


def _refuse_hidden(
    key: str, value: Any, tables: Sequence[Mapping[str, Any]], stages: Sequence[Stage]
) -> None:
    """Refuse an override of the base that a stage's own value hides, or that no stage has."""
    for table in tables:
        if key in dict(leaves(table)):
            cure = f"stage.{table['name']}.{key}={shown(value)}"
            raise UserError(f"{key} is set by the stage {table['name']} itself: write {cure}")
    if not tables or key.partition(".")[0] not in Stage.model_fields:
        return
    if not any(key in dict(leaves(_plain(stage))) for stage in stages):
        raise UserError(f"{key} reaches no stage: each has another {key.partition('.')[0]}")


def _refuse_contradictions(stage: Stage, machine: Machine, at: str) -> None:
    """Refuse settings that are each fine and cannot hold together."""
    rollout, learner, stop = stage.rollout, stage.learner, stage.stop
    if rollout.problems % learner.updates:
        raise UserError(
            f"{at}rollout.problems={rollout.problems} cannot be split into"
            f" {at}learner.updates={learner.updates} equal updates: make it a multiple"
        )
    if stage.source.type in ("recorded", "mixed") and rollout.max_staleness:
        raise UserError(
            f"{at}rollout.max_staleness={rollout.max_staleness} means nothing for recorded data,"
            " which no version of the policy sampled: set it to 0"
        )
    if not any((stop.steps, stop.flops, stop.hours, stop.money, stop.accuracy)):
        raise UserError(f"{at}stop has no bound, so the run would never end: set {at}stop.steps")
    if stop.money and not machine.price_per_hour:
        raise UserError(f"{at}stop.money={stop.money:g} needs a price: set machine.price_per_hour")
    if stop.accuracy and not stage.evaluation.every:
        raise UserError(
            f"{at}stop.accuracy={stop.accuracy:g} is never measured while"
            f" {at}evaluation.every is 0: set it to some steps"
        )
    if stop.gain and not stage.evaluation.every:
        raise UserError(
            f"{at}stop.gain={stop.gain:g} is forecast from evaluations, and {at}evaluation.every is"
            " 0: set it to some steps"
        )
    if rollout.importance_floor > rollout.importance_cap:
        raise UserError(
            f"{at}rollout.importance_floor={rollout.importance_floor:g} is above"
            f" {at}rollout.importance_cap={rollout.importance_cap:g}: lower it"
        )
    if rollout.importance == "opsm" and not rollout.importance_floor:
        raise UserError(
            f'{at}rollout.importance="opsm" drops nothing below {at}rollout.importance_floor=0:'
            " set it, to 0.9 say"
        )
    if stage.evaluation.select and not stage.evaluation.every:
        raise UserError(
            f"{at}evaluation.select has nothing to choose from while {at}evaluation.every is 0:"
            " set it to some steps"
        )
    if stage.evaluation.select and stage.evaluation.split != "test":
        raise UserError(
            f"{at}evaluation.select measures on validation and tests once on test: leave"
            f" {at}evaluation.split out"
        )
    if rollout.think_window and not rollout.think_tokens:
        raise UserError(
            f"{at}rollout.think_window={rollout.think_window} moves an interruption that there is"
            f" none of: set {at}rollout.think_tokens"
        )


def _refuse_schedule(stage: Stage, at: str) -> None:
    """Refuse a learning rate that falls towards an end which is not known, or not after warm-up."""
    learner, updates = stage.learner, stage.updates
    if learner.schedule == "constant":
        return
    if not stage.stop.steps:
        raise UserError(
            f'{at}learner.schedule="{learner.schedule}" falls towards an end that is not known:'
            f" set {at}stop.steps"
        )
    if learner.warmup >= updates:
        raise UserError(
            f"{at}learner.warmup={learner.warmup} leaves none of the {updates} updates of"
            f' {at}stop.steps to learner.schedule="{learner.schedule}": lower it'
        )
