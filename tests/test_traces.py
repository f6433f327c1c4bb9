"""What verifiers records, read as recorded plays: messages, tokens, branches, rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upslope.demonstrations import read_demonstrations
from upslope.types import UserError


def node(role: str, text: str, parent: int | None, tokens: str = "", **more: Any) -> Any:
    """``tokens``: each a letter, a sampled one a capital."""
    found: dict[str, Any] = {"message": {"role": role, "content": text}, **more}
    mask = [letter.isupper() for letter in tokens]
    found |= {"token_ids": [ord(letter) for letter in tokens], "mask": mask, "sampled": any(mask)}
    found["logprobs"] = [-0.5] * sum(mask)
    return found if parent is None else {**found, "parent": parent}


def trace(*nodes: Any, **more: Any) -> dict[str, Any]:
    rewards = {"right": {"score": 1.0, "weight": 2.0}, "short": {"score": 0.5, "weight": -1.0}}
    task = {"type": "T", "data": {}, "key": "k"}
    return {"task": task, "nodes": list(nodes), "rewards": rewards, "ok": True, **more}


def read(folder: Path, *rows: Any) -> Any:
    path = folder / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_demonstrations(path)


PLAY = (
    node("user", "hi", None, "ab"),
    node("assistant", "yes", 0, "cDE"),
    node("user", "more", 1, "f"),
    node("assistant", "no", 2, "gH"),
)


def test_tokens_and_rewards_are_what_was_recorded(tmp_path: Path) -> None:
    calls = [{"node": 1, "sampling": {"temperature": 0.7}}, {"node": 3, "finish_reason": "length"}]
    (one,) = read(tmp_path, {"traces": [trace(*PLAY, calls=calls)]})
    (row,) = one.segments
    assert "".join(map(chr, row.tokens)) == "abcDEfgH"
    assert np.flatnonzero(row.trained).tolist() == [3, 4, 7]
    assert row.engine_logprobs[row.trained].tolist() == [-0.5] * 3
    assert [(t.start, t.stop, t.stop_reason, t.temperature) for t in one.turns] == [
        (3, 5, "stop", 0.7),
        (7, 8, "length", 0.7),
    ]
    assert (one.reward, one.group, one.problem.id) == (1.5, "k", "k")
    assert [m["content"] for m in one.said] == ["yes", "more", "no"]


def test_a_branch_is_a_segment_and_what_is_shared_is_trained_once(tmp_path: Path) -> None:
    other = (node("user", "else", 1, "i"), node("assistant", "well", 4, "J"))
    (one,) = read(tmp_path, trace(*PLAY, *other))
    assert ["".join(map(chr, s.tokens)) for s in one.segments] == ["abcDEfgH", "abcDEiJ"]
    assert [np.flatnonzero(s.trained).tolist() for s in one.segments] == [[3, 4, 7], [6]]


def test_without_tokens_the_words_are_learned_with_their_calls(tmp_path: Path) -> None:
    call = {"id": "1", "name": "look", "arguments": '{"at": 1}'}
    made = {"message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    nodes = [
        {"message": {"role": "user", "content": [{"type": "text", "text": "hi"}]}},
        {**made, "sampled": True, "parent": 0},
    ]
    (one,) = read(tmp_path, trace(*nodes))
    assert one.segments == ()
    assert one.reply == '<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'
    assert one.problem.messages == ({"role": "user", "content": "hi"},)


def test_what_failed_is_left_out(tmp_path: Path) -> None:
    unscored = trace(*PLAY, rewards={"right": None})
    assert len(read(tmp_path, {"traces": [trace(*PLAY), trace(*PLAY, ok=False), unscored]})) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"traces": 5},
        {"traces": [{"nodes": [{}]}]},
        trace(node("user", "hi", None, "ab")),
        trace(PLAY[0], {**PLAY[1], "parent": 1}),
        trace(PLAY[0], {**PLAY[1], "logprobs": [-1.0]}),
        trace(*PLAY, rewards={"a": {"score": "x"}}),
    ],
)
def test_another_form_is_a_sentence_with_its_line(bad: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"traces.jsonl"):
        read(tmp_path, bad)
