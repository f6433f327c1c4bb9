"""Upslope scales language models with reinforcement learning: see ``upslope --help``.

From Python: ``upslope.train("recipe.toml", ["seed=1"])`` returns the finished ``Run``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upslope.runs import Run

__version__ = "0.1.0"


def train(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    allow: Sequence[str] = (),
) -> Run:
    """Train a recipe (a TOML file, or its contents) and return its ``Run``; raises UserError.

    ``resume``: go on with the recipe's newest run; ``allow``: settings that may differ from its.
    """
    # Imported here: ``import upslope`` must not wait for torch.
    from upslope.machine import prepare_memory

    prepare_memory()
    from upslope.launch import train_recipe
    from upslope.recipe import read
    from upslope.resume import resume_recipe

    if resume:
        return resume_recipe(read(recipe, overrides), print, allow=allow)
    return train_recipe(read(recipe, overrides), print)


class _Package(ModuleType):
    """Keeps ``upslope.train`` the function: importing the loop would put its module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "train" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
