"""What holds of every component: it is its own settings, and a recipe carries them."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any, Literal

from upslope.components import build, table_of
from upslope.recipe import dump, read
from upslope.selfcheck import Proof
from upslope.types import UserError


def prove_settings(component: Any, kind: Literal["env", "algorithm", "engine"]) -> Proof:
    """Its settings, written into a recipe and read back, make an equal component."""
    cls = type(component)
    frozen = dataclasses.is_dataclass(cls) and vars(cls)["__dataclass_params__"].frozen
    if not frozen:
        raise UserError(f"{cls.__name__} must be a frozen dataclass of its settings")
    table = {"type": "it", **table_of(component)}
    others = {"env": {"type": "any"}, "algorithm": {"type": "any"}}
    recipe = read({"model": "any", **others, kind: table})
    back = read(tomllib.loads(dump(recipe)))
    found = {"env": back.env, "algorithm": back.algorithm, "engine": back.engine}[kind]
    assert found is not None
    again = build(cls, found.settings, kind)
    if again != component:
        raise UserError(
            f"{cls.__name__}'s settings do not survive a recipe: {component} comes back as "
            f"{again}; use numbers, strings, booleans, tuples and nested frozen dataclasses"
        )
    return Proof("its settings survive a recipe", f"{len(table) - 1} settings")
