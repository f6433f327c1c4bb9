"""A pair, and which answers of a store become pairs: nouns that need no model.

How a reward model learns from pairs is in ``learned``, where they come from in ``gathered``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from upslope.preferences.asked import KINDS, Kind
from upslope.types import Message, Problem

Votes = Literal["each", "majority"]


class Pair(NamedTuple):
    """Two replies to a problem, the better one first. ``info``: its margin, its source, what each
    side earned by a head (``NAME_chosen``, ``NAME_rejected``), and any columns for slices."""

    problem: Problem
    chosen: str
    rejected: str
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Selection:
    """Of a store's answers those by ``annotators`` to questions of these ``kinds``; none named is
    all. ``votes``: ``each`` answer counts by itself, or what the ``majority`` said of two replies
    to a problem, in whichever questions; ties are no votes, and no majority is no pair."""

    annotators: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    votes: Votes = "each"

    def __post_init__(self) -> None:
        if other := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"kinds are of {', '.join(KINDS)}, not {other[0]!r}")


ALL = Selection()
SUFFIXES = (".sqlite", ".sqlite3", ".db")


def is_store(path: str | Path) -> bool:
    """Whether a path names a store of preferences, and not a file of rows."""
    return Path(path).suffix in SUFFIXES


def dialogue(problem: Problem, reply: str) -> tuple[Message, ...]:
    """A problem as messages, and a reply."""
    asked = problem.messages or ({"role": "raw", "content": problem.prompt},)
    return (*asked, {"role": "assistant", "content": reply})


def question(problem: Problem) -> str:
    """All that was asked, as a key: what answers one question is held out together."""
    return repr(problem.messages or problem.prompt)
