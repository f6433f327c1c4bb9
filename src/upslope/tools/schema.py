"""Arguments against a tool's JSON schema, and the values that plain words stand for.

Of the schema language what tools use: types, enumerations, bounds, items, properties. Keywords that
are not known say nothing here; whoever owns such a tool checks them itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from upslope.tools import Tool

DEEPEST = 32
KINDS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def misfit(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """What is wrong with a call's arguments, one sentence; "" where nothing is."""
    return next(_faults(tool.parameters, arguments, tool.name, 0), "")


def named(tool: Tool) -> list[str]:
    """A tool's parameters, in their order."""
    return [*tool.parameters.get("properties", {})]


def signature(tool: Tool, opened: str, closed: str) -> str:
    """As an instruction writes it: ``read[sheet: string, rows: integer?]``."""
    required = tool.parameters.get("required", ())
    properties = tool.parameters.get("properties", {})
    listed = [
        f"{name}: {_kinds(schema) or 'any'}{'' if name in required else '?'}"
        for name, schema in properties.items()
    ]
    return f"{tool.name}{opened}{', '.join(listed)}{closed}"


def placed(tool: Tool, values: Sequence[Any]) -> dict[str, Any]:
    """Values in the order of a tool's parameters, by name; ValueError where there are too many."""
    names = named(tool)
    if len(values) > len(names):
        raise ValueError(f"{tool.name} takes at most {len(names)} arguments, got {len(values)}")
    return dict(zip(names, values, strict=False))


def meant(tool: Tool, name: str, word: str) -> Any:
    """What a plain word is for a parameter: itself where a string will do, else a JSON value.

    The word itself, too, where it is none: ``misfit`` says so.
    """
    kinds = _types(tool.parameters.get("properties", {}).get(name, {}))
    if "string" in kinds or not kinds:
        return word
    try:
        return parsed(word)
    except ValueError:
        return word


def parsed(text: str) -> Any:
    """A JSON value; ValueError for anything else, whatever it is."""
    value, end = begun(text.strip())
    if end != len(text.strip()):
        raise ValueError(f"there is more after it, from character {end}")
    return value


def begun(text: str, at: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at a place of a text, and where it ends; ValueError for none."""
    try:
        value, end = DECODER.raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _bounded(value, 0)
    return value, end


def _bounded(value: Any, depth: int) -> None:
    """ValueError where it goes deeper than anything that has a use."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _bounded(item, depth + 1)


def _finite(text: str) -> float:
    """A number that JSON can write again; Python's reader takes 1e999, NaN and Infinity, too."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no JSON number")
    return value


DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)


def _faults(schema: Any, value: Any, at: str, depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return
    kinds = _types(schema)
    if kinds and not any(KINDS[kind](value) for kind in kinds):
        yield f"{at} must be {' or '.join(kinds)}, got {_shown(value)}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{at} must be one of {_shown(schema['enum'])}, got {_shown(value)}"
    elif "anyOf" in schema and all(
        any(True for _ in _faults(one, value, at, depth + 1)) for one in schema["anyOf"]
    ):
        yield f"{at} is none of what it may be, got {_shown(value)}"
    elif KINDS["number"](value):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            yield f"{at} is out of bounds, got {_shown(value)}"
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _faults(schema.get("items", {}), item, f"{at}[{place}]", depth + 1)
    elif isinstance(value, Mapping):
        yield from _members(schema, value, at, depth)


def _members(
    schema: Mapping[str, Any], value: Mapping[str, Any], at: str, depth: int
) -> Iterator[str]:
    """An object's: what is missing, what is unknown, and what is wrong."""
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{at} needs {name}"
    for name, item in value.items():
        if name in properties:
            yield from _faults(properties[name], item, f"{at}.{name}", depth + 1)
        elif not schema.get("additionalProperties", "properties" not in schema):
            takes = f": it takes {', '.join(properties)}" if properties else ""
            yield f"{at} does not take {_shown(name)}{takes}"


def _types(schema: Any) -> list[str]:
    """The types that a schema names, of those that there are."""
    given = schema.get("type", ()) if isinstance(schema, Mapping) else ()
    listed = [given] if isinstance(given, str) else [*given]
    return [kind for kind in listed if kind in KINDS]


def _kinds(schema: Any) -> str:
    return "|".join(_types(schema))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
