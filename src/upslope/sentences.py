"""Says in one sentence what is wrong with a setting: which key, what was given, what is expected.

Words only: what the settings are is in ``recipe.py`` and in the components themselves.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from upslope.types import UserError

WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    tuple: "a list",
    dict: "a table",
    Mapping: "a table",
}
NAME = "made of letters, digits, '.', '_' and '-'"


def bare(hint: Any) -> Any:
    """The hint without ``| None``."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [h for h in get_args(hint) if h is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def expected(hint: Any, metadata: Iterable[Any] = ()) -> str:
    """What a value of this type and these bounds is, in words; "" for types that have none."""
    hint = bare(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(shown(choice) for choice in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "a table with a `type`" if "type" in hint.model_fields else "a table of settings"
    word = WORDS.get(get_origin(hint) or hint, "")
    limits = " and ".join(limit for m in metadata if (limit := _limit(m)))
    return f"{word} {limits}".rstrip() if word else ""


def shown(value: Any) -> str:
    """The value as TOML would show it, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """The known dotted key or name nearest to ``given``, or "".

    First the same last name in any section, so that ``lr`` finds ``learner.lr``; then a like name
    in the same section, then anywhere.
    """
    parent, _, leaf = given.lower().rpartition(".")
    keys = {k.lower(): k for k in reversed(known) if not given.startswith(f"{k}.")}
    names = {k.rpartition(".")[2]: k for k in keys}
    beside = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    close = difflib.get_close_matches
    found = [names[leaf]] if leaf in names else []
    found += [beside[m] for m in close(leaf, beside, n=1, cutoff=0.6)]
    found += [names[m] for m in close(leaf, names, n=1, cutoff=0.75)]
    return keys[found[0]] if found else ""


def unknown(kind: str, given: str, known: Sequence[str]) -> UserError:
    """The error for a name or key that does not exist."""
    guess = did_you_mean(given, known)
    parent = given[: given.rfind(".") + 1]
    beside = dict.fromkeys(k[len(parent) :].split(".")[0] for k in known if k.startswith(parent))
    cure = f"did you mean {guess}?" if guess else f"there is {', '.join(beside) or 'none here'}"
    return UserError(f"unknown {kind} {given}: {cure}")


def wrong(key: str, found: ErrorDetails, hint: Any, metadata: Iterable[Any]) -> UserError:
    """The error for a value of the wrong type or out of bounds."""
    want = NAME if found["type"] == "string_pattern_mismatch" else expected(hint, metadata)
    says = f"must be {want}" if want else found["msg"].replace("Input should", "should")
    return UserError(f"{key} {says}, not {shown(found['input'])}")


def first_error(error: ValidationError, model: type[BaseModel], prefix: str = "") -> UserError:
    """The most telling of a model's validation errors; a misspelt key explains a missing one."""
    found = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    path = [str(part) for part in found["loc"]]
    key = prefix + ".".join(path)
    if found["type"] == "extra_forbidden":
        return _unknown_setting(key, found["input"], model, prefix)
    field = _field(model, path)
    if found["type"] == "missing":
        return UserError(f"{key} is missing: {meaning(field)}")
    if path[-1].isdigit():  # what a list holds
        return wrong(key, found, get_args(bare(field.annotation))[0], ())
    return wrong(key, found, field.annotation, field.metadata)


def meaning(field: FieldInfo) -> str:
    """What the setting does: the words in its annotation."""
    return next((m for m in field.metadata if isinstance(m, str)), "it has no default")


def leaves_of(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting below a model by its dotted key, in order; a component counts as one."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = bare(field.annotation)
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        if nested and inner.model_config.get("extra") == "forbid":
            found |= leaves_of(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def _unknown_setting(key: str, value: Any, model: type[BaseModel], prefix: str) -> UserError:
    """The error for a key that is not the model's; what an unknown table holds helps to guess."""
    known = [prefix + name for name in (*model.model_fields, *leaves_of(model))]
    if isinstance(value, dict) and value and not did_you_mean(key, known):
        return unknown("setting", f"{key}.{next(iter(value))}", known)
    return unknown("setting", key, known)


def _field(model: type[BaseModel], path: Sequence[str]) -> FieldInfo:
    """The field at a path, or the deepest one on the way there."""
    field = model.model_fields[path[0]]
    inner = bare(field.annotation)
    if len(path) > 1 and isinstance(inner, type) and issubclass(inner, BaseModel):
        return _field(inner, path[1:])
    return field


def _limit(constraint: Any) -> str:
    """A bound in words, "" for other annotations."""
    match constraint:
        case Ge(ge=bound):
            return f"of at least {bound}"
        case Gt(gt=bound):
            return f"above {bound}"
        case Le(le=bound):
            return f"at most {bound}"
        case Lt(lt=bound):
            return f"below {bound}"
        case MinLen():
            return "that is not empty"
    return ""
