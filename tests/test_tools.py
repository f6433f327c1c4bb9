"""Forms of calls: what is read of a reply, strictly or not, and that what is written is read."""

from __future__ import annotations

import json
import random
import time

import pytest

from toolbox import FIND, KNOWN, NOW, READ, TOOLS, Made, schema
from upslope.batteries.env import GARBAGE
from upslope.tools import Call, Said
from upslope.tools.play import FORMS, Limits, told
from upslope.tools.schema import misfit, parsed

REACT, JSON, TERSE = FORMS["react"], FORMS["json"], FORMS["terse"]
READS = Said((Call("read", {"sheet": "a", "rows": 2}),))


def tagged(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


@pytest.mark.parametrize(
    ("form", "reply", "said"),
    [
        (REACT, 'Thought: look.\nAction: read[sheet="a", rows=2]', READS),
        (REACT, 'Action: read["a", 2]', READS),
        (REACT, "<think>Final: 3</think>Action: now[]", Said((Call("now", {}),))),
        (REACT, 'Action: find["a \\"b\\"], \\nc"]', Said((Call("find", {"text": 'a "b"], \nc'}),))),
        (REACT, "Thought: so.\nFinal: 12\nand 13", Said(final="12\nand 13")),
        (REACT, "Final:", Said(final="")),
        (
            JSON,
            "Sure.\n" + tagged('{"name": "read", "arguments": {"sheet": "a", "rows": 2}}'),
            READS,
        ),
        (
            JSON,
            tagged('{"name": "now", "arguments": {}}') * 2,
            Said((Call("now", {}), Call("now", {}))),
        ),
        (JSON, "The answer is 4.", Said(final="The answer is 4.")),
        (JSON, '{"total": 4}', Said(final='{"total": 4}')),
        (JSON, "<think>I call <tool_call>.</think>4", Said(final="4")),
        (TERSE, "read a 2", READS),
        (TERSE, "now", Said((Call("now", {}),))),
        (
            TERSE,
            "find two  words ",
            Said(
                (Call("find", {"text": "two  words"}),),
                tolerated="there are spaces around the line",
            ),
        ),
        (TERSE, "=4 5", Said(final="4 5")),
    ],
)
def test_what_is_written_as_it_should_be(form, reply, said) -> None:
    assert form.read(reply, KNOWN) == said


@pytest.mark.parametrize(
    ("form", "reply", "said"),
    [
        (REACT, "Action: read[a, 2]", READS),
        (REACT, "Action: read[sheet=a, rows=2]", READS),
        (REACT, 'Action: read("a", 2)', READS),
        (REACT, '**Action:** read["a", 2]', READS),
        (REACT, "ACTION : read['a', 2]", READS),
        (REACT, 'Action: read["a", 2]\nObservation: 7\nFinal: 7', READS),
        (REACT, "Action: find[Paris, in 1990]", Said((Call("find", {"text": "Paris, in 1990"}),))),
        (REACT, "Answer: 4", Said(final="4")),
        (REACT, "Final Answer: 4", Said(final="4")),
        (JSON, '{"name": "read", "arguments": {"sheet": "a", "rows": 2}}', READS),
        (JSON, '```json\n{"name": "read", "arguments": {"sheet": "a", "rows": 2}}\n```', READS),
        (JSON, '[{"name": "read", "arguments": {"sheet": "a", "rows": 2}}]', READS),
        (JSON, '<tool_call>{"name": "read", "arguments": {"sheet": "a", "rows": 2}}', READS),
        (JSON, tagged("{'name': 'read', 'arguments': {'sheet': 'a', 'rows': 2}}"), READS),
        (JSON, tagged('{"name": "read", "parameters": {"sheet": "a", "rows": 2}}'), READS),
        (
            JSON,
            tagged('{"name": "read", "arguments": "{\\"sheet\\": \\"a\\", \\"rows\\": 2}"}'),
            READS,
        ),
        (JSON, tagged('{"function": {"name": "now", "arguments": {}}}'), Said((Call("now", {}),))),
        (JSON, tagged('{"name": "now", "arguments": {}}') + "noon", Said((Call("now", {}),))),
        (TERSE, "read  a  2", READS),
        (TERSE, " read a 2", READS),
    ],
)
def test_what_is_written_otherwise_is_tolerated_and_named(form, reply, said) -> None:
    read = form.read(reply, KNOWN)
    assert (read.calls, read.final, read.fault) == (said.calls, said.final, "")
    assert read.tolerated


@pytest.mark.parametrize(
    ("form", "reply", "fault"),
    [
        (REACT, "I will look it up.", "neither"),
        (REACT, "Observation: 4\nFinal: 4", "made up an observation"),
        (REACT, "Action: look it up", "written as"),
        (REACT, "Action: find[Paris", "does not end"),
        (REACT, 'Action: read["a", 2, 3]', "at most 2 arguments, got 3"),
        (JSON, "", "empty"),
        (JSON, tagged('{"name": "read", "arguments": {'), "not JSON"),
        (JSON, tagged("[1]"), "a JSON object"),
        (JSON, tagged('{"arguments": {}}'), '"name"'),
        (JSON, tagged('{"name": "now", "arguments": [1]}'), "a JSON object"),
        (JSON, tagged('{"name": "now", "arguments": {"a": NaN}}'), "not JSON"),
        (JSON, "<tool_call>" * 100, "at most 64"),
        (TERSE, "", "empty"),
        (TERSE, "now then", "no arguments"),
    ],
)
def test_what_cannot_be_read_is_a_fault_with_its_reason(form, reply, fault) -> None:
    read = form.read(reply, KNOWN)
    assert (read.calls, read.final) == ((), None)
    assert fault in read.fault


@pytest.mark.parametrize("form", FORMS)
def test_a_call_of_what_there_is_not_is_read_and_left_to_the_play(form) -> None:
    reply = {
        "react": "Action: nope[]",
        "json": tagged('{"name": "nope", "arguments": {}}'),
        "terse": "nope",
    }
    assert FORMS[form].read(reply[form], KNOWN).calls == (Call("nope", {}),)


def arguments(draw: random.Random, form: str) -> dict:
    word = "".join(draw.choices("ab <>[]{}()\"'\\/,=:\n_tool_call", k=draw.randint(1, 12)))
    if form == "terse":
        word = "".join(draw.choices("ab<>[](),:_", k=draw.randint(1, 8)))
        return {"sheet": word, "rows": draw.randint(-5, 500)}
    given = {"sheet": word, "rows": draw.randint(-5, 500)}
    return (
        given
        if draw.random() < 0.5
        else {"sheet": word + draw.choice(["</tool_call>", "<tool_call>", "é\ud800"])}
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(100))
def test_what_is_written_is_read(form, seed) -> None:
    draw = random.Random(seed)
    calls = tuple(
        Call("read", arguments(draw, form))
        for _ in range(draw.randint(1, 3) if form == "json" else 1)
    )
    final = "".join(draw.choices("ab 12[]{}.=", k=8)).strip()
    for said in (Said(calls), Said(final=f"x{final}")):
        assert FORMS[form].read(FORMS[form].write(said), KNOWN) == said


def test_what_has_no_form_is_not_written() -> None:
    two = Said((Call("now"), Call("now")))
    for form, said in (
        (REACT, two),
        (TERSE, two),
        (REACT, Said(fault="so")),
        (JSON, Said(fault="so")),
    ):
        with pytest.raises(ValueError):
            form.write(said)


@pytest.mark.parametrize("form", FORMS)
def test_garbage_is_read_in_no_time(form) -> None:
    more = (
        "[" * 10**6,
        "Action: read[" * 10**5,
        "Action: read[" + '"' * 10**5,
        "<tool_call>" + "[" * 10**5,
        "<tool_call>" * 10**5,
        "Action: find[" + "(" * 10**6,
        "{" * 1000,
        "```" * 10**5,
        "read " + " " * 10**6,
    )
    begun = time.process_time()
    for text in (*GARBAGE.values(), *more):
        read = FORMS[form].read(text, KNOWN)
        assert bool(read.calls) + (read.final is not None) + bool(read.fault) == 1
    assert time.process_time() - begun < 4


def test_observations_are_as_each_form_has_them() -> None:
    results = [(Call("now"), "noon"), (Call(""), "error: so")]
    assert [m["content"] for m in REACT.observed(results)] == [
        "Observation: noon\nObservation: error: so"
    ]
    assert [m["content"] for m in TERSE.observed(results)] == ["noon\n!\n"]
    (message,) = JSON.observed(results)
    assert message["content"].count("<tool_response>") == 2


def test_prompts_say_what_there_is() -> None:
    assert "read[sheet: string, rows: integer?]: Does it." in told(TOOLS, REACT)
    schemas = [
        json.loads(line)
        for line in told(TOOLS, JSON).splitlines()
        if line.startswith('{"name": "read", "d')
    ]
    assert schemas[0]["parameters"] == READ.parameters
    assert "compact" in told(TOOLS, REACT, Limits(compact=True))
    assert told(TOOLS, TERSE) == ""


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sheet": "a"}, ""),
        ({"sheet": "a", "rows": 2}, ""),
        ({}, "read needs sheet"),
        ({"sheet": 1}, "read.sheet must be string, got 1"),
        ({"sheet": "a", "rows": True}, "read.rows must be integer, got true"),
        ({"sheet": "a", "rows": 2.5}, "read.rows must be integer, got 2.5"),
        ({"sheet": "a", "row": 2}, 'read does not take "row": it takes sheet, rows'),
    ],
)
def test_arguments_are_those_of_the_schema(given, reason) -> None:
    assert misfit(READ, given) == reason


def test_schemas_in_depth() -> None:
    inner = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["sum", "mean"]},
            "cells": {"type": "array", "items": {"type": "string"}},
            "top": {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
            "by": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
    }
    tool = Made("t", str, {"properties": {"ask": inner}})
    for good in ({"kind": "sum"}, {"cells": ["A1"]}, {"top": None}, {"top": 9}, {"by": 3}):
        assert misfit(tool, {"ask": good}) == ""
    assert (
        misfit(tool, {"ask": {"kind": "max"}})
        == 't.ask.kind must be one of ["sum", "mean"], got "max"'
    )
    assert misfit(tool, {"ask": {"cells": ["A1", 2]}}) == "t.ask.cells[1] must be string, got 2"
    assert "out of bounds" in misfit(tool, {"ask": {"top": 0}})
    assert "none of what" in misfit(tool, {"ask": {"by": 1.5}})
    assert misfit(NOW, {"at": 1}) == 'now does not take "at"'
    assert misfit(Made("open", str, {"type": "object"}), {"any": 1}) == ""
    assert misfit(FIND, {"text": "a" * 99}) == ""


@pytest.mark.parametrize(
    "text", ["NaN", "1e999", "-Infinity", "[" * 100 + "]" * 100, "1 2", "", "9" * 5000]
)
def test_no_json_that_cannot_be_written_again(text) -> None:
    with pytest.raises(ValueError):
        parsed(text)
    assert parsed(" [1, 2.5] ") == [1, 2.5]
    assert misfit(Made("t", str, schema(n="integer")), {"n": 10**4000}) == ""
