"""Presets: parts of a recipe by name, one TOML file each, after a published method.

A file's header says what each value is from, what is left to the user, and what differs from the
source. A table's own keys win over its preset's; an algorithm of another type replaces it whole.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upslope.overrides import merge
from upslope.sentences import shown, unknown
from upslope.types import UserError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All presets there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def text(name: str) -> str:
    """A preset as its file has it; raises UserError for one that does not exist."""
    if name not in names():
        raise unknown("preset", name, names())
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def about(name: str) -> list[str]:
    """The lines of its header, the first of which says what it is."""
    lines = text(name).split("\n\n")[0].splitlines()
    return [line.removeprefix("#").removeprefix(" ") for line in lines]


def using(algorithm: str) -> list[str]:
    """The presets whose algorithm has this name."""
    tables = {name: tomllib.loads(text(name)) for name in names()}
    return [n for n, table in tables.items() if table["algorithm"]["type"] == algorithm]


def written_out(raw: Mapping[str, Any], *, overridden: bool) -> dict[str, Any]:
    """A raw recipe without presets, all that they set written into its tables.

    ``overridden``: an override chose the recipe's. Raises UserError where a stage would hide it.
    """
    tables = raw.get("stage")
    if not isinstance(tables, list) or not all(isinstance(t, Mapping) for t in tables):
        return expanded(raw)
    for table in tables:
        if overridden and "preset" in table:
            cure = f"stage.{table.get('name')}.preset={shown(raw['preset'])}"
            raise UserError(f"preset is set by the stage {table.get('name')} itself: write {cure}")
    return expanded({**raw, "stage": [expanded(table) for table in tables]})


def expanded(table: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's or a stage's table with its preset written out under its own keys."""
    name = table.get("preset")
    if not isinstance(name, str):
        return dict(table)
    own = {key: value for key, value in table.items() if key != "preset"}
    return merge(tomllib.loads(text(name)), own)
