"""Recorded replies, and reading them from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from upslope.envs.datasets import Row, read_rows
from upslope.types import Problem, UserError


@dataclass(frozen=True)
class Demonstration:
    """A recorded reply to a problem, and what it earned if that is known."""

    problem: Problem
    reply: str
    reward: float = 1.0


def read_demonstrations(path: Path) -> list[Demonstration]:
    """JSONL or Parquet rows {"prompt" or "messages", "reply", "reward"?, "stop"?, "id"?}."""
    try:
        return [_demonstration(row, number) for number, row in enumerate(read_rows(path), 1)]
    except UserError as error:
        raise UserError(f"source.path: {error}") from error


def _demonstration(given: Row, number: int) -> Demonstration:
    # A column of a Parquet file has a null where a row leaves it out.
    row, where = {k: v for k, v in given.fields.items() if v is not None}, given.where
    reply, reward, stop = row.get("reply"), row.get("reward", 1.0), row.get("stop", [])
    if not isinstance(reply, str) or not reply:
        raise UserError(f'{where}: "reply" must be a non-empty string')
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not isfinite(reward):
        raise UserError(f'{where}: "reward" must be a number, got {reward!r}')
    prompt, messages = row.get("prompt", ""), row.get("messages", [])
    if not isinstance(prompt, str) or not isinstance(messages, list):
        raise UserError(f'{where}: "prompt" must be a string and "messages" a list')
    if bool(prompt) == bool(messages):
        raise UserError(f'{where}: give either "prompt" or "messages"')
    if not all(isinstance(m, dict) and _spoken(m) for m in messages):
        raise UserError(f'{where}: each of "messages" must be an object with a role and content')
    if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
        raise UserError(f'{where}: "stop" must be a list of strings')
    name = str(row.get("id", number))
    problem = Problem(name, tuple(messages), prompt, tuple(stop), answer=reply)
    return Demonstration(problem, reply, float(reward))


def _spoken(message: Mapping[str, Any]) -> bool:
    return all(isinstance(message.get(key), str) for key in ("role", "content"))
