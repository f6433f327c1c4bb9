"""What `verifiers` records (traces.jsonl, schema 1) as rows of recorded plays.

A trace is a tree of messages, each with the tokens that it adds. Every path to a leaf is a segment;
what two of them share is trained in the first alone. How rows become plays is in
``demonstrations.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from upslope.serve.called import written
from upslope.types import UserError

Node = Mapping[str, Any]


def is_trace(row: Mapping[str, Any]) -> bool:
    """Whether a row is an episode of traces, or one of these."""
    return "traces" in row or "nodes" in row


def rows_of(row: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """A row of a recorded play for each trace that ended well; UserError where it is none."""
    try:
        for trace in row.get("traces", [row]):
            scored = None not in (trace.get("rewards") or {}).values()
            if trace.get("ok", True) and scored and trace["nodes"]:
                yield _row(trace)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}: a trace of another form than verifiers' schema 1 ({error!r})"
        ) from error


def _row(trace: Mapping[str, Any]) -> dict[str, Any]:
    nodes, task = trace["nodes"], trace.get("task") or {}
    paths = [_path(nodes, leaf) for leaf in _leaves(nodes)]
    path = paths[-1]
    begun = [bool(nodes[at].get("sampled")) for at in path].index(True)
    said = [_message(nodes[at]["message"]) for at in path]
    name = str(task.get("key") or task.get("hash") or "")
    rewards = (trace.get("rewards") or {}).values()
    total = sum(float(one["score"]) * float(one.get("weight", 1.0)) for one in rewards)
    row: dict[str, Any] = {"messages": said[:begun], "completion": said[begun:], "reward": total}
    if name:
        row |= {"id": name, "group": name}
    if all(node.get("token_ids") for node in nodes):
        row["segments"] = _segments(trace, paths)
        samplings = [call.get("sampling") or {} for call in trace.get("calls") or []]
        told = [s["temperature"] for s in samplings if s.get("temperature")]
        row["temperature"] = told[0] if told else 1.0
    return row


def _leaves(nodes: Sequence[Node]) -> list[int]:
    inner = {node.get("parent") for node in nodes}
    return [at for at in range(len(nodes)) if at not in inner]


def _path(nodes: Sequence[Node], leaf: int) -> list[int]:
    """From the root; a parent comes before its children, so that no path is a ring."""
    path, at = [leaf], nodes[leaf].get("parent")
    while at is not None:
        if not 0 <= at < path[-1]:
            raise ValueError(f"node {path[-1]} has the parent {at}")
        path.append(at)
        at = nodes[at].get("parent")
    return path[::-1]


def _segments(trace: Mapping[str, Any], paths: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Tokens, turns and log-probabilities of each path that has something of its own to train."""
    nodes, taken, found = trace["nodes"], set[int](), []
    calls = {call.get("node"): call for call in trace.get("calls") or []}
    for path in paths:
        tokens: list[int] = []
        turns: list[list[Any]] = []
        logprobs: list[float] = []
        for at in path:
            node, start = nodes[at], len(tokens)
            tokens += node["token_ids"]
            if at in taken or not node.get("sampled"):
                continue
            taken.add(at)
            reason = (calls.get(at) or {}).get("finish_reason")
            end = "length" if reason == "length" else "stop"
            turns += [[start + a, start + b, 0.0, end] for a, b in _spans(node["mask"])]
            logprobs += node.get("logprobs") or []
        if turns:
            one: dict[str, Any] = {"tokens": tokens, "turns": turns}
            found.append({**one, "logprobs": logprobs} if logprobs else one)
    return found


def _spans(mask: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Where a mask is True: begin and end of each run."""
    place = 0
    for value, run in groupby(mask):
        length = len(list(run))
        if value:
            yield place, place + length
        place += length


def _message(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """With its content as one text, its calls in it."""
    content = given.get("content") or ""
    if not isinstance(content, str):
        content = "".join(str(part.get("text", "")) for part in content)
    calls = [
        {"function": {"name": call["name"], "arguments": _json(call["arguments"])}}
        for call in given.get("tool_calls") or []
    ]
    return dict(written({"role": given["role"], "content": content, "tool_calls": calls}))


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
