"""Components: found by name or by file, built from TOML values under strict types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from upslope.components import build, find
from upslope.types import UserError

KINDS = {"nested": "test_components:Nested", "thing": "test_components:Thing"}


@dataclass(frozen=True, slots=True)
class Nested:
    low: int
    high: int = 9


@dataclass(frozen=True)
class Thing:
    digits: int
    rate: float = 0.5
    ops: tuple[str, ...] = ("+",)
    mode: Literal["chat", "text"] = "chat"
    top: int | None = None
    span: Nested = Nested(0)
    spans: tuple[Nested, ...] = ()
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.digits > 9:
            raise ValueError("digits above 9 do not fit")


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        build(Thing, values, "env")
    return str(caught.value)


def test_lists_become_tuples_whole_numbers_numbers_and_tables_dataclasses() -> None:
    values: dict[str, Any] = {"digits": 2, "rate": 1, "ops": ["+", "-"], "top": 3}
    nested = {"span": {"low": 1}, "spans": [{"low": 2, "high": 3}], "weights": {"a": 1}}
    thing = build(Thing, values | nested, "env")
    assert thing == Thing(
        2, 1.0, ("+", "-"), "chat", 3, Nested(1), (Nested(2, 3),), weights={"a": 1.0}
    )
    assert isinstance(thing.rate, float)
    assert build(Thing, {"digits": 2}, "env") == Thing(2)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"digit": 2}, "unknown setting env.digit: did you mean env.digits?"),
        ({}, "env.digits is missing"),
        ({"digits": True}, "env.digits must be a whole number, not true"),
        ({"digits": "2"}, 'env.digits must be a whole number, not "2"'),
        ({"digits": 2.0}, "env.digits must be a whole number, not 2.0"),
        ({"digits": 2, "mode": "raw"}, 'env.mode must be one of "chat", "text", not "raw"'),
        ({"digits": 2, "top": "x"}, 'env.top must be a whole number, not "x"'),
        ({"digits": 2, "ops": "+"}, 'env.ops must be a list, not "+"'),
        ({"digits": 2, "ops": ["+", 3]}, "env.ops.1 should be a valid string, not 3"),
        ({"digits": 2, "span": {"lo": 1}}, "unknown setting env.span.lo: did you mean env.span.lo"),
        ({"digits": 2, "spans": [{"low": "x"}]}, "env.spans.0.low should be a valid integer"),
        ({"digits": 2, "spans": [{"low": 1, "hi": 2}]}, "env.spans.0.hi"),
        ({"digits": 10}, "env: digits above 9 do not fit"),
    ],
)
def test_refusals_name_the_key(values: dict[str, Any], sentence: str) -> None:
    assert refusal(values).startswith(sentence)


def test_only_dataclasses_are_built() -> None:
    with pytest.raises(UserError, match="int must be a dataclass of its settings"):
        build(int, {}, "env")


def test_find_by_name() -> None:
    assert find(KINDS, "thing", "env").__name__ == "Thing"
    with pytest.raises(UserError, match=r"unknown env thin: did you mean thing\?"):
        find(KINDS, "thin", "env")
    with pytest.raises(UserError, match="unknown env zzzzz: there is nested, thing"):
        find(KINDS, "zzzzz", "env")


def test_find_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Mine:\n    size: int = 3\nnumber = 3\n"
    )
    mine = find(KINDS, f"{path}:Mine", "env")
    assert build(mine, {"size": 4}, "env").size == 4
    assert find(KINDS, f"{path}:Mine", "env") is mine
    for name, sentence in {
        f"{path}:Mein": "unknown class Mein: did you mean Mine?",
        f"{path}:number": "number is not a class",
        f"{path}": "names a file but no class: write",
        f"{tmp_path}/none.py:Mine": "to take the env from",
    }.items():
        with pytest.raises(UserError) as caught:
            find(KINDS, name, "env")
        assert sentence in str(caught.value)


def test_a_file_that_raises_at_import_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    for text, reason in {"1 / 0": "ZeroDivisionError", "def": "SyntaxError"}.items():
        path.write_text(text)
        with pytest.raises(UserError, match=rf"importing {path} failed: {reason}"):
            find(KINDS, f"{path}:Bad", "env")
