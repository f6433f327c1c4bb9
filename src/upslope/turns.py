"""What a trajectory's turns say of its tokens: whose reply they are, what was earned, and where.

A reply that was interrupted and what was said after it are one turn here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from upslope.types import Trajectory, Turn, UserError, graded


class Row(NamedTuple):
    """A segment as a row of a batch: its place in its trajectory, and that one's ids."""

    trajectory: Trajectory
    segment: int
    number: int
    group: int

    @property
    def spans(self) -> Iterator[tuple[int, Turn]]:
        """Its spans of sampled tokens, each with the number of the turn that it is of."""
        return ((n, turn) for n, turn in replies(self.trajectory) if turn.segment == self.segment)


def replies(trajectory: Trajectory) -> Iterator[tuple[int, Turn]]:
    """Each span of sampled tokens with the number of the turn that it is of."""
    number = 0
    for turn in trajectory.turns:
        yield number, turn
        number += turn.stop_reason != "interrupted"


def numbers(rows: Sequence[Row], width: int) -> npt.NDArray[np.int64]:
    """[row token]: the number of the turn that sampled it; -1 where none did."""
    out = np.full((len(rows), width), -1)
    for i, row in enumerate(rows):
        for number, turn in row.spans:
            out[i, turn.start : turn.stop] = number
    return out


def temperatures(rows: Sequence[Row], width: int) -> npt.NDArray[np.float32]:
    """[row token]: what it was sampled at; 1 where none was."""
    out = np.ones((len(rows), width), dtype=np.float32)
    for i, row in enumerate(rows):
        for _, turn in row.spans:
            # Greedy tokens are scored at temperature 1: at 0 log-probabilities are 0 or -inf.
            out[i, turn.start : turn.stop] = turn.temperature or 1.0
    return out


def earned(rows: Sequence[Row], width: int) -> npt.NDArray[np.float32] | None:
    """[row token]: what of the total was earned at a token; None where nobody said.

    A turn's reward lies on its last token. UserError for a process reward on a token that was not
    sampled.
    """
    if not any(told(row.trajectory) for row in rows):
        return None
    out = np.zeros((len(rows), width), dtype=np.float32)
    places = {(row.number, row.segment): i for i, row in enumerate(rows)}
    plays = {row.number: row.trajectory for row in rows}
    for number, play in plays.items():
        ends = [(turn.segment, turn.stop - 1, turn.reward) for turn in play.turns if turn.reward]
        for segment, token, value in (*ends, *graded(play).at):
            place = places.get((number, segment), -1)
            trained = play.segments[segment].trained if place >= 0 else ()
            if not (0 <= token < len(trained) and trained[token]):
                raise _nowhere(play, segment, token)
            out[place, token] += value if graded(play).valid else 0.0
    return out


def anchors(rows: Sequence[Row], width: int) -> npt.NDArray[np.int64] | None:
    """[row token]: an id of the state that the token's turn began in, equal within a group alone.

    -1 where the env gave it no name, which is so of every first turn; None where it named none.
    """
    if not any(turn.state for row in rows for turn in row.trajectory.turns):
        return None
    out, known = np.full((len(rows), width), -1), dict[tuple[int, str], int]()
    for i, row in enumerate(rows):
        began = ""
        for _, turn in replies(row.trajectory):
            if began and turn.segment == row.segment:
                name = known.setdefault((row.group, began), len(known))
                out[i, turn.start : turn.stop] = name
            began = began if turn.stop_reason == "interrupted" else turn.state
    return out


def told(trajectory: Trajectory) -> bool:
    """Whether anybody said what of its total was earned where."""
    return bool(graded(trajectory).at) or any(turn.reward for turn in trajectory.turns)


def _nowhere(trajectory: Trajectory, segment: int, token: int) -> UserError:
    return UserError(
        f"a reward of problem {trajectory.problem.id!r} puts a process reward on token {token} of "
        f"segment {segment}, which was not sampled: Reward.at counts segments and their tokens "
        "from 0, the prompt's included"
    )
