"""The side of a program that is tested: it runs as a module, and then does what the judge asks.

It is not trusted with anything: it never sees a test but the arguments of a call, and what it says
is taken as data. It may well be changed by the program that it runs, which gains nothing by it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upslope.sandbox.programs.wire import hear, packed, say, unpacked

KEPT: list[Any] = []
MOST = range(100_000)  # items of something without an end


def keep(value: Any) -> int:
    """A number for what cannot be sent."""
    KEPT.append(value)
    return len(KEPT) - 1


def changed(arguments: list[Any]) -> list[Any]:
    """Arguments that a call may have changed in place."""
    return [packed(a, keep) if isinstance(a, (list, dict, set)) else None for a in arguments]


def done(asked: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """What a request gives."""
    known = KEPT.__getitem__
    on = names[asked["name"]] if "name" in asked else known(asked["on"])
    arguments = [unpacked(one, known) for one in asked.get("arguments", ())]
    words = {key: unpacked(one, known) for key, one in asked.get("words", {}).items()}
    if asked["do"] == "call":
        value = on(*arguments, **words)
        return {"value": packed(value, keep), "changed": changed(arguments)}
    if asked["do"] == "get":
        return {"value": packed(getattr(on, arguments[0]), keep)}
    if asked["do"] == "set":
        setattr(on, arguments[0], arguments[1])
        return {"value": None}
    if asked["do"] == "items":
        return {"value": [packed(one, keep) for _, one in zip(MOST, on, strict=False)]}
    if asked["do"] == "length":
        return {"value": len(on)}
    if asked["do"] == "item":
        return {"value": packed(on[arguments[0]], keep)}
    return {"value": repr(on)}


def serve(program: str) -> None:
    """Run the program, name what it has, and answer until the judge has ended."""
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program, "<program>", "exec"), names)
    except BaseException as raised:  # noqa: BLE001  whatever a program raises
        own = isinstance(raised, SystemExit)
        error = RuntimeError("the program ended itself") if own else raised
        say({"error": type(error).__name__, "text": str(error)[:300]})
        return
    say({"names": [name for name in names if not name.startswith("__")]})
    while (asked := hear()) is not None:
        try:
            answer = done(asked, names)
        except SystemExit:
            return
        except BaseException as error:  # noqa: BLE001
            answer = {"error": type(error).__name__, "text": str(error)[:300]}
        say(answer)


sys.setrecursionlimit(10_000)
