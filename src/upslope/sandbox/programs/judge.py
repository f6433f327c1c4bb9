"""The side of the tests: runs them one by one on stand-ins for what the tested program has.

Its verdict is what it prints, and only it: the tested program has no way to this process but to
answer calls with data. What is not of Python's own types equals nothing but itself.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from upslope.sandbox.programs.wire import hear, packed, say, unpacked


class EndedError(Exception):
    """The tested program has gone."""


def asked(where: dict[str, Any], do: str, arguments: Sequence[Any] = (), words: Any = None) -> Any:
    """What the tested program answers, its exceptions raised here under their names."""
    try:
        say({"do": do, "arguments": arguments, "words": words or {}, **where})
        answer = hear()
    except OSError:
        answer = None
    if not isinstance(answer, dict):
        raise EndedError("the program ended itself")
    if "error" in answer:
        kind = getattr(builtins, str(answer["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = RuntimeError
        if issubclass(kind, AssertionError):  # a test's own are what fails it
            kind = RuntimeError
        if issubclass(kind, UnicodeError):
            kind = ValueError
        raise kind(answer.get("text", ""))
    return answer


class Standin:
    """Something of the tested program's: a function, or an object that cannot be sent."""

    _where: dict[str, Any]

    def __init__(self, name: str, value: Any) -> None:
        object.__setattr__(self, "_where", {name: value})

    def __call__(self, *arguments: Any, **words: Any) -> Any:
        sent = [packed(one, number) for one in arguments]
        named = {key: packed(one, number) for key, one in words.items()}
        answer = asked(self._where, "call", sent, named)
        for ours, theirs in zip(arguments, answer.get("changed", ()), strict=False):
            if theirs is not None:
                replace(ours, unpacked(theirs, known))
        return unpacked(answer["value"], known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return unpacked(asked(self._where, "get", [name])["value"], known)

    def __setattr__(self, name: str, value: Any) -> None:
        asked(self._where, "set", [name, packed(value, number)])

    def __iter__(self) -> Iterator[Any]:
        return iter([unpacked(v, known) for v in asked(self._where, "items")["value"]])

    def __len__(self) -> int:
        return int(asked(self._where, "length")["value"])

    def __getitem__(self, key: Any) -> Any:
        sent = [packed(key, number)]
        return unpacked(asked(self._where, "item", sent)["value"], known)

    def __repr__(self) -> str:
        return str(asked(self._where, "repr")["value"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Standin) and self._where == other._where

    def __hash__(self) -> int:
        return hash(tuple(self._where.items()))


def known(place: int) -> Standin:
    """What a number stands for."""
    return Standin("on", int(place))


def number(value: Any) -> int:
    """The number of what the tested program keeps; nothing of ours can be kept there."""
    if isinstance(value, Standin) and "on" in value._where:
        return int(value._where["on"])
    raise TypeError(f"a test gives a {type(value).__name__}, which cannot be sent to the program")


def replace(ours: Any, theirs: Any) -> None:
    """Make an argument what the call made of it."""
    if isinstance(ours, list) and isinstance(theirs, list):
        ours[:] = theirs
    elif isinstance(ours, (dict, set)) and type(ours) is type(theirs):
        ours.clear()
        ours.update(theirs)


def judged(setup: str, tests: Sequence[str], entry: str) -> dict[str, Any]:
    """A verdict on each test: "" where it passed, or why it did not; and what is wrong of ours."""
    scope: dict[str, Any] = {"__name__": "tests"}
    begun = hear()
    if not isinstance(begun, dict) or not isinstance(begun.get("names"), list):
        told = begun if isinstance(begun, dict) else {}
        why = f"{told.get('error', 'the program ended itself')}: {told.get('text', '')}"
        return {"verdicts": [why[:300]] * len(tests)}
    for name in begun["names"]:
        scope[str(name)] = Standin("name", str(name))
    if entry:
        if entry not in scope:
            return {"verdicts": [f"NameError: {entry} is not defined"] * len(tests)}
        scope["candidate"] = scope[entry]
    try:
        exec(compile(setup, "<setup>", "exec"), scope)
        compiled = [compile(test, "<test>", "exec") for test in tests]
    except Exception as error:  # noqa: BLE001  tests are others' code
        return {"broken": f"{type(error).__name__}: {error}"}
    verdicts = []
    for code in compiled:
        why = ""
        try:
            exec(code, scope)
        except Exception as error:  # noqa: BLE001
            why = f"{type(error).__name__}: {error}"[:300]
        verdicts.append(why)
    return {"verdicts": verdicts}
