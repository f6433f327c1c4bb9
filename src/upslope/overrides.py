"""``key=value`` overrides as nested tables, and laying one table over another.

Tables only: which keys exist and what they may hold is ``recipe.py``'s to know.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upslope.types import UserError

MIXTURE = "mixture"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it, table by table; a component of another type replaces."""
    if "type" in base and over.get("type", base["type"]) != base["type"]:
        return dict(over)
    if base.get("type") == MIXTURE and "parts" not in over:
        return {**base, "parts": _parts(base["parts"], over)}
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def label_of(part: Mapping[str, Any]) -> str:
    """What an env of several is called: its label, else its type, or its class in a file."""
    return str(part.get("label") or str(part.get("type", "")).rpartition(".py:")[2])


def mixed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A table whose ``[[env]]`` is written as one env, a mixture of parts."""
    if not isinstance(tree.get("env"), list):
        return dict(tree)
    return {**tree, "env": {"type": MIXTURE, "parts": tree["env"]}}


def _parts(parts: Sequence[Mapping[str, Any]], over: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parts of a mixture under changes by label."""
    labels = [label_of(part) for part in parts]
    for label in over:
        if label not in labels and label != "type":
            raise UserError(
                f"there is no env {label}: write env.<label>.<key>=value with one of {labels}"
            )
    changes = [over.get(label, {}) for label in labels]
    return [merge(part, change) for part, change in zip(parts, changes, strict=True)]


def tree_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides as nested tables; the last of equal keys wins."""
    tree: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise UserError(f"{text!r} is no override: write key=value, such as rollout.group=8")
        change: Any = value_of(value.strip())
        for part in reversed(path):
            change = {part: change}
        tree = merge(tree, change)
    return tree


def value_of(text: str) -> Any:
    """A TOML value; what is not TOML is a bare word and stands for itself."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
