"""Recorded plays, and reading them: replies, pairs, labelled replies, whole trajectories, a run's.

The fields of a row say which it is. A pair is two plays of one problem of which one earned more; a
labelled reply earned 1 or 0. How plays become tokens is in ``recite.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from upslope import fields, traces
from upslope.envs.datasets import Row, read_rows
from upslope.files import explained, replace_file
from upslope.preferences.pair import ALL, Selection, is_store
from upslope.trajectories import TrajectoryFiles
from upslope.types import NOTHING, Group, Message, Problem, Segment, Turn, UserError, graded


@dataclass(frozen=True)
class Demonstration:
    """A recorded reply to a problem, and what it earned if that is known.

    ``group``: plays with the same one are of one group; "" is one of its own. ``said``: the
    messages after the prompt, where there are more than the reply. ``segments``, ``turns``: its
    tokens, where these were recorded; nothing is tokenised again then. ``cut``: the length limit
    ended it.
    """

    problem: Problem
    reply: str
    reward: float = 1.0
    group: str = ""
    said: tuple[Message, ...] = ()
    segments: tuple[Segment, ...] = ()
    turns: tuple[Turn, ...] = ()
    cut: bool = False

    @property
    def scored(self) -> bool:
        """Whether it is known how likely every token was to whoever said it."""
        unknown = [np.isnan(segment.engine_logprobs).any() for segment in self.segments]
        return bool(unknown) and not any(unknown)


def read_demonstrations(
    path: Path, known: Mapping[str, Problem] = NOTHING, which: Selection = ALL
) -> list[Demonstration]:
    """All plays of a JSONL or Parquet file, of a run's folder, or of the pairs of a store.

    ``known``: problems by id; of a run's plays those count whose problem is among them. ``which``:
    what counts of a store.
    """
    try:
        if is_store(path) or which != ALL:
            return _of_store(path, which)
        if (path / "trajectories").is_dir():
            return _of_run(path, known)
        shown, numbers, asked = list[Demonstration](), list[int](), dict[str, Problem]()
        for number, row in enumerate(read_rows(path), 1):
            for one in _plays(row, number):
                _same_question(asked, one, row.where)
                shown.append(one)
                numbers.append(number)
    except UserError as error:
        raise UserError(f"source.path: {error}") from error
    return _identified(shown, numbers)


def write_demonstrations(path: Path, groups: Sequence[Group]) -> None:
    """Trajectories with their tokens and log-probabilities, a row each, as they are read back.

    What could not be graded is left out.
    """
    plays = [t for group in groups for t in group.trajectories if graded(t).valid]
    rows = []
    for t in plays:
        messages = {"messages": [dict(m) for m in t.problem.messages]}
        asked = {"prompt": t.problem.prompt} if t.problem.prompt else messages
        row: dict[str, Any] = {"id": t.problem.id, "group": f"{t.problem.id}/{t.visit}", **asked}
        row |= {"stop": list(t.problem.stop), "reply": t.text, "reward": graded(t).total}
        segments = [fields.segment_row(t.turns, s, at) for at, s in enumerate(t.segments)]
        rows.append(row | {"temperature": t.turns[-1].temperature or 1.0, "segments": segments})
    with explained(path):
        replace_file(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def sets(shown: Sequence[Demonstration]) -> list[list[Demonstration]]:
    """Plays by group, in the order of each one's first."""
    found: dict[tuple[str, int], list[Demonstration]] = {}
    for number, one in enumerate(shown):
        found.setdefault((one.group, 0 if one.group else number), []).append(one)
    return [*found.values()]


def _plays(given: Row, number: int) -> Iterator[Demonstration]:
    # A column of a Parquet file has a null where a row leaves it out.
    row = {name: value for name, value in given.fields.items() if value is not None}
    if traces.is_trace(row):
        for one in traces.rows_of(row, given.where):
            yield _single(one, given.where)
    elif row.keys() & {"chosen", "rejected"}:
        yield from _pair(row, given.where, number)
    else:
        yield _single(row, given.where)


def _pair(row: Mapping[str, Any], where: str, number: int) -> Iterator[Demonstration]:
    asked, sides = fields.sides_of(row, where)
    problem = fields.problem_of(asked, where, _last(sides[0]))
    for side, reward in zip(sides, fields.won_of(row, where), strict=True):
        yield _told(problem, side, reward, f"pair {number}")


def _single(row: Mapping[str, Any], where: str) -> Demonstration:
    reply, messages = row.get("reply", row.get("completion")), row.get("messages", [])
    if reply is None and isinstance(messages, list) and len(messages) > 1:
        dialogue = fields.dialogue_of(messages, "messages", where)
        messages = [*takewhile(lambda m: m["role"] != "assistant", dialogue)]
        reply = [*dialogue[len(messages) :]]
    if isinstance(reply, list):
        reply = [*fields.dialogue_of(reply, "completion", where)]
        reply = reply if reply and reply[-1]["role"] == "assistant" else None
    # A recorded trajectory may have said nothing but its end.
    if not isinstance(reply, str | list) or not (reply or "segments" in row):
        raise UserError(f'{where}: "reply" must be a non-empty string')
    problem = fields.problem_of({**row, "messages": messages}, where, _last(reply))
    segments, turns = fields.segments_of(row, where)
    reward, group = fields.reward_of(row, where), str(row.get("group", ""))
    return _told(problem, reply, reward, group, segments, turns)


def _told(
    problem: Problem,
    side: str | Sequence[Message],
    reward: float,
    group: str,
    segments: tuple[Segment, ...] = (),
    turns: tuple[Turn, ...] = (),
    cut: bool = False,
) -> Demonstration:
    """A play from a reply, or from the messages after the prompt."""
    said = () if isinstance(side, str) or len(side) == 1 else tuple(side)
    return Demonstration(problem, _last(side), reward, group, said, segments, turns, cut)


def _last(side: str | Sequence[Message]) -> str:
    return side if isinstance(side, str) else str(side[-1]["content"])


def _same_question(asked: dict[str, Problem], one: Demonstration, where: str) -> None:
    """Members of a group must answer one problem."""
    first = asked.setdefault(one.group, one.problem) if one.group else one.problem
    if (first.prompt, first.messages) != (one.problem.prompt, one.problem.messages):
        raise UserError(
            f'{where}: "group" is {one.group!r} as in an earlier row that was asked something else'
        )


def _identified(shown: Sequence[Demonstration], numbers: Sequence[int]) -> list[Demonstration]:
    """The plays of rows with these ``numbers``, each with its problem's id, or its question's.

    Who asks the same without an id asks one problem, as the statistics count them. It has the first
    id that another row gives the question, else the number of the question's first row.
    """
    given = {one.problem.id for one in shown}
    ids = dict[str, str]()
    for one in shown:
        if one.problem.id:
            ids.setdefault(_question(one.problem), one.problem.id)
    found = []
    for one, number in zip(shown, numbers, strict=True):
        if not one.problem.id:
            free = str(number)
            while free in given:
                free += "*"
            name = ids.setdefault(_question(one.problem), free)
            one = replace(one, problem=replace(one.problem, id=name))
        found.append(one)
    return found


def _question(problem: Problem) -> str:
    """All that the policy is asked, as a key."""
    asked = [problem.prompt, [dict(m) for m in problem.messages], problem.stop]
    return json.dumps(asked, sort_keys=True, default=str)


def _of_store(path: Path, which: Selection) -> list[Demonstration]:
    """Both sides of each pair of a store."""
    from upslope.preferences.moved import pairs_of

    shown, numbers = list[Demonstration](), list[int]()
    for number, pair in enumerate(pairs_of(path, which), 1):
        problem = replace(pair.problem, answer=pair.chosen)
        earned = fields.won_of(pair.info, f"{path}, pair {number}")
        for side, reward in zip((pair.chosen, pair.rejected), earned, strict=True):
            shown.append(_told(problem, side, reward, f"pair {number}"))
            numbers.append(number)
    return _identified(shown, numbers)


def _of_run(path: Path, known: Mapping[str, Problem]) -> list[Demonstration]:
    """A run's plays in training, of the problems that are known, where they were graded.

    Held-out problems, which evaluations play, are not known and stay held out.
    """
    shown = []
    for row in TrajectoryFiles(path / "trajectories").read():
        if not row["valid"] or row["problem"] not in known:
            continue
        if row["interrupted"]:
            raise UserError(
                f"{path}: the play {row['id']!r} was interrupted, and its words do not say which "
                f"of them were put in: record plays with their tokens, by upslope eval {path} "
                "--record FILE --split train, and give that file"
            )
        problem = known[row["problem"]]
        asked = len(problem.messages) or 1  # a raw prompt is a message of its own
        group = f"{row['step']}/{row['stage']}/{row['problem']}/{row['visit']}"
        said, cut = row["messages"][asked:], row["stop"] == "length"
        shown.append(_told(problem, said, float(row["reward"]), group, cut=cut))
    if not shown:
        raise UserError(
            f"{path} has no graded trajectory of the env's train problems: give the run's own env"
        )
    return shown
