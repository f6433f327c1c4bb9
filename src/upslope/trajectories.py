"""A run's trajectories on disk: a JSON-lines tail, compacted now and then into Parquet parts.

A reader sees every row once, whenever the process is killed. What is written is what a person
reads back: no token ids, no log-probs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upslope.files import append_rows, drop_half_row, read_rows, replace_file
from upslope.types import Trajectory

ROWS_IN_PART = 2000
TEXT = ("id", "stage", "problem", "text", "reason", "stop")
NUMBERS = ("step", "visit", "member", "tokens", "version")
TABLES = ("messages", "parts", "costs")
TRUTHS = ("valid", "interrupted")
COLUMNS = (*TEXT, *NUMBERS, "reward", *TRUTHS, *TABLES)
LATER: dict[str, Any] = {"interrupted": None}  # older runs do not have it: nobody knows


def trajectory_row(step: int, stage: str, trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as a row; its id is step/stage/problem/visit/member, and /greedy where it is.

    ``interrupted``: whether its messages have words in replies that the policy did not say.
    """
    problem, visit, member = trajectory.problem.id, trajectory.visit, trajectory.member
    reward, turns = trajectory.reward, trajectory.turns
    greedy = "/greedy" if turns and turns[-1].temperature == 0 else ""
    row = {
        "id": f"{step}/{stage}/{problem}/{visit}/{member}{greedy}",
        "step": step,
        "stage": stage,
        "problem": problem,
        "visit": visit,
        "member": member,
        "text": trajectory.text,
        "messages": [dict(m) for m in trajectory.messages],
        "reward": reward.total if reward else None,
        "parts": dict(reward.parts) if reward else {},
        "costs": dict(reward.costs) if reward else {},
        "valid": reward.valid if reward else False,
        "reason": reward.reason if reward else "",
        "stop": turns[-1].stop_reason if turns else "",
        "interrupted": any(turn.stop_reason == "interrupted" for turn in turns),
        "tokens": trajectory.length,
        "version": trajectory.version,
    }
    # Half a surrogate pair is text to Python and JSON, but not to Parquet.
    texts = {name: str(row[name]) for name in TEXT}
    return row | {
        name: text if text.isascii() else text.encode("utf-8", "replace").decode()
        for name, text in texts.items()
    }


class TrajectoryFiles:
    """The trajectories' folder: one writer, any number of readers at the same time."""

    def __init__(self, folder: Path, rows_in_part: int = ROWS_IN_PART) -> None:
        """Nothing is touched before the first ``append`` or ``recover``."""
        self._folder = folder
        self._tail = folder / "tail.jsonl"
        self._rows_in_part = rows_in_part
        self._waiting = 0

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows to the tail, and the tail into a part when it has grown long."""
        self._folder.mkdir(exist_ok=True)
        append_rows(self._tail, rows)
        self._waiting += len(rows)
        if self._waiting >= self._rows_in_part:
            self.compact()

    def compact(self) -> None:
        """Move the tail's rows into a new part; the part is whole before the tail is emptied."""
        rows = self._waiting_rows()
        if rows:
            newest = self._parts()[-1].stem if self._parts() else "part-00000"
            number = int(newest.removeprefix("part-")) + 1
            replace_file(self._folder / f"part-{number:05d}.parquet", _parquet(rows))
            replace_file(self._tail, b"")
        self._waiting = 0

    def recover(self) -> None:
        """After a kill: drop a half row, and rows of the tail that the newest part already has."""
        drop_half_row(self._tail)
        rows = self._waiting_rows()
        moved = _moved(rows, [_read_part(part) for part in self._parts()[-1:]])
        if moved:
            replace_file(self._tail, b"".join(json.dumps(r).encode() + b"\n" for r in rows[moved:]))
        self._waiting = len(rows) - moved

    def cut(self, rows: int) -> None:
        """Keep the first ``rows`` rows; call it after ``recover``."""
        left = rows
        for part in self._parts():
            kept = _read_part(part)[:left]
            left -= len(kept)
            if not kept:
                part.unlink()
            else:
                replace_file(part, _parquet(kept))
        tail = self._waiting_rows()[:left]
        if self._tail.exists():
            replace_file(self._tail, b"".join(json.dumps(r).encode() + b"\n" for r in tail))
        self._waiting = len(tail)

    def read(self, stage: str | None = None) -> list[dict[str, Any]]:
        """All rows, oldest first, or those of one ``stage`` alone."""
        # The tail first: rows that a writer moves meanwhile are then in both, not in neither.
        tail = [row for row in self._waiting_rows() if stage in (None, row["stage"])]
        parts = [_read_part(part, stage) for part in self._parts()]
        return [row for part in parts for row in part] + tail[_moved(tail, parts) :]

    def _waiting_rows(self) -> list[dict[str, Any]]:
        """The tail's."""
        return [LATER | row for row in read_rows(self._tail)]

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))


def _moved(tail: Sequence[Mapping[str, Any]], parts: Sequence[Sequence[Mapping[str, Any]]]) -> int:
    """How many of the tail's first rows are in a part: one that begins as the tail does."""
    for part in parts:
        both = min(len(tail), len(part))
        if both and all(tail[i][name] == part[i][name] for i in range(both) for name in COLUMNS):
            return both
    return 0


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a Parquet file with fixed column types; nested tables become JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = dict.fromkeys((*TEXT, *TABLES), pa.string()) | dict.fromkeys(NUMBERS, pa.int64())
    kinds |= {"reward": pa.float64()} | dict.fromkeys(TRUTHS, pa.bool_())
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    columns |= {name: [json.dumps(table) for table in columns[name]] for name in TABLES}
    schema = pa.schema([(name, kinds[name]) for name in COLUMNS])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue())


def _read_part(path: Path, stage: str | None = None) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    wanted = None if stage is None else [("stage", "==", stage)]
    rows: list[dict[str, Any]] = pq.read_table(path, filters=wanted).to_pylist()
    return [LATER | row | {name: json.loads(row[name]) for name in TABLES} for row in rows]
