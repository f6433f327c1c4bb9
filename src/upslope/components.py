"""From a component's name and raw settings to its class and a checked instance.

A component (an env, an algorithm, a source) is a frozen dataclass of its own settings. Nothing is
registered: a folder's plain dict maps a short name to "module:Class", imported when asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import operator
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from upslope.seeds import seed_of
from upslope.sentences import bare, unknown, wrong
from upslope.types import UserError

T = TypeVar("T")
STRICT = ConfigDict(strict=True, extra="forbid")


def find(kinds: Mapping[str, str], name: str, kind: str) -> type[Any]:
    """The class that ``name`` means: a key of ``kinds``, or ``path/to/file.py:Name``.

    ``kind`` is the word for it in errors. Raises UserError where there is no such class.
    """
    if name in kinds:
        module, _, attribute = kinds[name].partition(":")
        return _attribute(importlib.import_module(module), attribute, name)
    path, colon, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return _attribute(_load(Path(path), kind), attribute, name)
    if not colon and name.endswith(".py"):
        raise UserError(f"{kind} {name} names a file but no class: write {name}:Name")
    raise unknown(kind, name, [*kinds])


def build(cls: type[T], values: Mapping[str, Any], at: str) -> T:
    """A frozen dataclass from TOML values, its types checked strictly; ``at`` is its dotted key.

    A whole number may stand for a number and a list for a tuple; nothing else is converted.
    Raises UserError that names the key, what was given and what is expected.
    """
    if not dataclasses.is_dataclass(cls):
        raise UserError(f"{at}: {cls.__name__} must be a dataclass of its settings")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in values:
        if key not in fields:
            raise unknown("setting", f"{at}.{key}", [f"{at}.{name}" for name in fields])
    for name, field in fields.items():
        if name not in values and required(field):
            raise UserError(f"{at}.{name} is missing: {cls.__name__} has no default for it")
    hints = typing.get_type_hints(cls, include_extras=True)
    given = {key: _checked(hints[key], value, f"{at}.{key}") for key, value in values.items()}
    try:
        return cls(**given)
    except (ValueError, TypeError, UserError) as error:
        raise UserError(f"{at}: {error}") from error


def catalogue(
    kinds: Mapping[str, str], more: Callable[[str], Iterable[str]] = lambda name: ()
) -> Iterator[str]:
    """Each name with its module's first sentence, what ``more`` there is to say of it, and its
    settings with their defaults."""
    for name, where in kinds.items():
        about = (importlib.import_module(where.partition(":")[0]).__doc__ or "").split("\n\n")[0]
        yield f"{name:14}{' '.join(about.split()).replace('``', '`')}"
        yield from (f"{'':14}{line}" for line in more(name))
        for field in dataclasses.fields(find(kinds, name, "component")):
            default = "(required)" if required(field) else repr(default_of(field))
            yield f"{'':14}{field.name} = {default}"


def required(field: dataclasses.Field[Any]) -> bool:
    """Whether a setting has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a setting that has one."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def table_of(component: Any) -> dict[str, Any]:
    """The settings of a component as TOML has them: what ``build`` makes it of again.

    TOML has no null: a setting that is None is left out, to take its default.
    """
    hints = typing.get_type_hints(type(component), include_extras=True)
    names = [field.name for field in dataclasses.fields(component) if field.init]
    given = {name: operator.attrgetter(name)(component) for name in names}
    return {k: _written(hints[k], v) for k, v in given.items() if v is not None}


def name_of(kinds: Mapping[str, str], component: Any) -> str:
    """The ``type`` that names a component's class."""
    cls = type(component)
    names = [n for n, where in kinds.items() if where == f"{cls.__module__}:{cls.__name__}"]
    return names[0] if names else f"{inspect.getfile(cls)}:{cls.__name__}"


def kinds_of(hint: Any) -> Mapping[str, str] | None:
    """The names that a setting's component is chosen from, where it is ``Annotated`` with them."""
    if typing.get_origin(hint) is typing.Annotated:
        return next((extra for extra in hint.__metadata__ if isinstance(extra, Mapping)), None)
    return None


def tables_of(hint: Any) -> type[Any] | None:
    """The dataclass whose tables a setting holds by name, where it is such a mapping."""
    if typing.get_origin(hint) is Mapping:
        inner = typing.get_args(hint)[1]
        return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None
    return None


def named_kinds(hint: Any) -> Mapping[str, str] | None:
    """The same of a setting that holds such components by name."""
    return kinds_of(typing.get_args(hint)[1]) if typing.get_origin(hint) is Mapping else None


def _written(hint: Any, value: Any) -> Any:
    if (kinds := kinds_of(hint)) is not None:
        return {"type": name_of(kinds, value), **table_of(value)}
    if named_kinds(hint) is not None:
        return {k: _written(typing.get_args(hint)[1], v) for k, v in value.items()}
    if dataclasses.is_dataclass(value):
        return table_of(value)
    if isinstance(value, Mapping):
        return {k: _written(None, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_written(None, v) for v in value]
    return value


def _checked(hint: Any, value: Any, at: str) -> Any:
    """One value of a setting, checked; nested dataclasses and components are built from their own
    tables."""
    if (kinds := kinds_of(hint)) is not None:
        return _nested(kinds, value, at)
    if (kinds := named_kinds(hint)) is not None and isinstance(value, Mapping):
        return {key: _nested(kinds, table, f"{at}.{key}") for key, table in value.items()}
    given = bare(hint)
    if isinstance(given, type) and dataclasses.is_dataclass(given) and isinstance(value, Mapping):
        return build(given, value, at)
    if (cls := tables_of(hint)) is not None and isinstance(value, Mapping):
        for key, own in value.items():
            if not isinstance(own, Mapping):
                raise UserError(f"{at}.{key} must be a table of {cls.__name__}'s settings")
        return {key: build(cls, own, f"{at}.{key}") for key, own in value.items()}
    try:
        # Strict JSON, unlike strict Python, takes a list for a tuple: TOML has no tuples.
        return TypeAdapter(hint, config=STRICT).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        key = ".".join([at, *(str(part) for part in found["loc"] if part in _parts(value))])
        hint, metadata = _bare_annotation(hint)
        inner = None if found["loc"] else hint
        raise wrong(key, found, inner, metadata) from error


def _nested(kinds: Mapping[str, str], value: Any, at: str) -> Any:
    """A component inside of another."""
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        example = next(iter(kinds), "file.py:Name")
        raise UserError(f'{at} must be a table with a type, such as {{type = "{example}"}}')
    settings = {key: own for key, own in value.items() if key != "type"}
    return build(find(kinds, value["type"], at), settings, at)


def _parts(value: Any) -> set[Any]:
    """Keys and places of a raw value; the other parts of a location are pydantic's own labels."""
    if isinstance(value, Mapping):
        return set(value).union(*map(_parts, value.values()))
    if isinstance(value, list | tuple):
        return set(range(len(value))).union(*map(_parts, value))
    return set()


def _bare_annotation(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """(type, constraints) of ``Annotated[type, constraints]`` and of a plain type."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *metadata = typing.get_args(hint)
        return inner, tuple(metadata)
    return hint, ()


def _load(path: Path, kind: str) -> ModuleType:
    """Import a file by path, once per process."""
    if not path.is_file():
        raise UserError(f"there is no file {path} to take the {kind} from")
    # A module must be findable by name, or its dataclasses' type hints cannot be resolved.
    name = f"upslope_file_{path.stem}_{seed_of(str(path.resolve())):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    return module


def _attribute(module: ModuleType, attribute: str, name: str) -> type[Any]:
    found = vars(module).get(attribute)
    if isinstance(found, type):
        return found
    if found is not None:
        raise UserError(f"{name}: {attribute} is not a class")
    own = [
        k
        for k, v in vars(module).items()
        if isinstance(v, type) and v.__module__ == module.__name__
    ]
    raise unknown("class", attribute, own)
