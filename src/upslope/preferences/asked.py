"""What people are asked and what they answer: candidates, questions, answers, counts.

Records alone; they are kept by ``store``. One number for each candidate says every kind of answer:
higher is better, equal is a tie, and none at all is a skip.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple, get_args

from upslope.types import NOTHING, Problem, UserError

Kind = Literal["pair", "rating", "ranking"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Candidate(NamedTuple):
    """A reply, and which run, model or step wrote it; "" where nobody knows."""

    text: str
    source: str = ""


@dataclass(frozen=True)
class Proposal:
    """Something to ask. ``reason``: why it is asked. ``wanted``: answers of different annotators.
    ``low``, ``high``: the scale of a rating. ``again``: which of several equal questions it is."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    kind: Kind = "pair"
    reason: str = ""
    wanted: int = 1
    low: float = 1.0
    high: float = 5.0
    again: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be answered, with UserError."""
        where, texts = f"problem {self.problem.id!r}", [one.text for one in self.candidates]
        if self.kind not in KINDS:
            raise UserError(f"{where}: a question is one of {', '.join(KINDS)}, not {self.kind!r}")
        least, most = {"pair": (2, 2), "ranking": (2, 99), "rating": (1, 99)}[self.kind]
        if not least <= len(texts) <= most:
            raise UserError(
                f"{where}: a {self.kind} has from {least} to {most} replies, not {len(texts)}"
            )
        if len(set(texts)) < len(texts):
            raise UserError(f"{where}: two replies are the same, so that neither wins")
        if self.wanted < 1 or not self.low < self.high:
            raise UserError(f"{where}: wanted is at least 1, and low is below high")

    @property
    def key(self) -> str:
        """The same for the same question, whatever the order of its replies."""
        texts = sorted(one.text for one in self.candidates)
        return digest([self.kind, asked(self.problem), texts, self.again])


@dataclass(frozen=True)
class Question:
    """A proposal that is kept, in the order in which its replies are shown."""

    number: int
    key: str
    problem: Problem
    kind: Kind
    candidates: tuple[Candidate, ...]
    reason: str
    wanted: int
    low: float
    high: float

    def checked(self, values: Sequence[float]) -> tuple[float, ...]:
        """An answer's numbers, one for each candidate or none at all; UserError for others."""
        given = tuple(map(float, values))
        if given and len(given) != len(self.candidates):
            raise UserError(
                f"question {self.number} has {len(self.candidates)} replies, and the answer "
                f"{len(given)} numbers: give one for each, or none to skip it"
            )
        if not all(map(isfinite, given)):
            raise UserError(f"question {self.number}: an answer's numbers must be finite")
        if self.kind == "rating" and not all(self.low <= one <= self.high for one in given):
            raise UserError(
                f"question {self.number}: a rating lies from {self.low:g} to {self.high:g}"
            )
        return given


class Said(NamedTuple):
    """What ``annotator`` said: ``values`` of the candidates, () where it was skipped; ``why`` in
    their words; ``at`` in seconds since 1970. ``info``: what a file said beside it."""

    annotator: str
    values: tuple[float, ...]
    why: str = ""
    at: float = 0.0
    info: Mapping[str, Any] = NOTHING


@dataclass(frozen=True)
class Answer:
    """What was said of a question, in the order of its candidates."""

    question: Question
    said: Said

    @property
    def values(self) -> tuple[float, ...]:
        """One for each candidate, higher for better; () where it was skipped."""
        return self.said.values

    @property
    def skipped(self) -> bool:
        """Whether nothing was said."""
        return not self.values

    @property
    def tied(self) -> bool:
        """Whether all candidates are as good."""
        return len(self.values) > 1 and len(set(self.values)) == 1


@dataclass(frozen=True)
class Counts:
    """How much there is: ``questions`` of each kind, of which ``open`` still want answers; ``by``
    counts each annotator's answers."""

    problems: int
    replies: int
    questions: Mapping[str, int]
    open: int
    answers: int
    ties: int
    skips: int
    undone: int
    by: Mapping[str, int]


class Progress(NamedTuple):
    """Of one annotator: questions answered, skipped, and left to answer."""

    answered: int
    skipped: int
    left: int


def kind_of(word: str) -> Kind:
    """A kind by its name; UserError where there is no such."""
    for kind in KINDS:
        if kind == word:
            return kind
    raise UserError(f"a question is one of {', '.join(KINDS)}, not {word!r}")


def asked(problem: Problem) -> str:
    """All that was asked, as JSON: what answers one question is of one problem."""
    said = [dict(message) for message in problem.messages] or problem.prompt
    return json.dumps([said, list(problem.stop)], sort_keys=True)


def problem_from(text: str, name: str) -> Problem:
    """The problem that ``asked`` wrote."""
    said, stop = json.loads(text)
    if isinstance(said, str):
        return Problem(name, prompt=said, stop=tuple(stop))
    return Problem(name, messages=tuple(said), stop=tuple(stop))


def digest(value: Any) -> str:
    """A short name of anything JSON."""
    text = json.dumps(value, sort_keys=True)  # ASCII, so that half a surrogate pair has one too
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
