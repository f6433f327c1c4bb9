"""Rows of files as pairs and answers, and back: the forms of Hugging Face, TRL, hh-rlhf, and a
store's own, which holds every answer.

A row is read by ``pair_of`` or ``answer_of``, wherever it stands. What a form cannot hold is
refused here, and counted by who writes a file, in ``moved``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from math import isfinite
from typing import Any, Literal, get_args

from upslope import fields
from upslope.envs.datasets import Row
from upslope.preferences.asked import KINDS, Answer, Candidate, Proposal, Said
from upslope.preferences.pair import Pair
from upslope.preferences.transcripts import is_transcript, messages_of, transcript_of
from upslope.types import Message, Problem, UserError

Form = Literal["hf", "trl", "hh"]
FORMS: tuple[Form, ...] = get_args(Form)
SIDES = ("chosen", "rejected")
USED = {"prompt", "messages", *SIDES, "id", "stop"}
OWN = ("annotator", "why", "at", "source_chosen", "source_rejected")  # columns of a store's own
# What a row with ``replies`` may hold beside what was asked; others are misspelt.
ANSWER = {"kind", "replies", "values", "sources", "wanted", "low", "high", "reason", "annotator"}
ANSWER |= {"why", "at", "info", "prompt", "messages", "stop", "id"}


def pair_of(row: Row, number: int) -> Pair:
    """The pair of a row in any of the forms; ``info`` has its other columns. UserError, with file
    and line, for equal sides, for sides that answer different dialogues, and for no sides."""
    given = {name: value for name, value in row.fields.items() if value is not None}
    for side in SIDES:
        near = get_close_matches(side, given.keys() - USED, 1, 0.8)
        if side not in given and near:
            raise UserError(f'{row.where}: a pair needs "{side}": did you mean the {near[0]!r}?')
    if is_transcript(given.get("chosen")) and is_transcript(given.get("rejected")):
        given |= {side: messages_of(given[side]) for side in SIDES}
    asked, sides = fields.sides_of(given, row.where)
    problem = fields.problem_of({"id": str(number), **asked}, row.where, "")
    texts = [side if isinstance(side, str) else str(side[-1]["content"]) for side in sides]
    if not isinstance(sides[0], str) and max(map(len, sides)) > 1:
        problem = _longer(problem, *sides, row.where)
    info = {name: value for name, value in given.items() if name not in USED}
    return Pair(problem, texts[0], texts[1], info)


def answer_of(row: Row, number: int, annotator: str) -> tuple[Proposal, Said | None]:
    """A row as a question and what was said of it, by ``annotator`` where it names nobody; None
    where it has ``replies`` without ``values``, so that it only asks."""
    if "replies" in row.fields:
        return _own(row, number, annotator)
    pair = pair_of(row, number)
    scores = [pair.info.get(f"score_{side}") for side in SIDES]
    if None not in scores:
        fields.won_of(pair.info, row.where)  # refuses a winner that scored no more
    info = dict(pair.info)
    who, why, at, *sources = (info.pop(name, None) for name in OWN)
    sides = zip((pair.chosen, pair.rejected), sources, strict=True)
    candidates = tuple(Candidate(text, str(source or "")) for text, source in sides)
    seconds = _seconds(at, row.where)
    said = Said(str(who or annotator), (1.0, 0.0), str(why or ""), seconds, info)
    return Proposal(pair.problem, candidates, reason="read from a file"), said


def row_of_pair(pair: Pair, form: Form) -> dict[str, Any]:
    """A pair in a form; UserError, without a place, for what the form cannot hold.

    ``hf``: both sides as messages, or as text with its prompt. ``trl``: an explicit prompt.
    Both with who said it, when and why, and a file's own columns. ``hh``: transcripts alone.
    """
    problem = pair.problem
    if form == "hh":
        sides = (pair.chosen, pair.rejected)
        told = [transcript_of([*problem.messages, reply(text)]) for text in sides]
        if problem.prompt or not all(told):
            raise UserError("no dialogue of Human and Assistant in turn, as hh-rlhf has them")
        return {"chosen": told[0], "rejected": told[1]}
    row: dict[str, Any] = {"id": problem.id, **pair.info}
    row |= {"stop": list(problem.stop)} if problem.stop else {}
    if problem.prompt:
        return {**row, "prompt": problem.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    before = [dict(message) for message in problem.messages]
    chosen, rejected = [reply(pair.chosen)], [reply(pair.rejected)]
    if form == "trl":
        return {**row, "prompt": before, "chosen": chosen, "rejected": rejected}
    return {**row, "chosen": [*before, *chosen], "rejected": [*before, *rejected]}


def row_of_answer(answer: Answer) -> dict[str, Any]:
    """Any answer, ties and skips too, as ``answer_of`` reads it."""
    asked, said = answer.question, answer.said
    problem = asked.problem
    said_to = {"messages": [dict(m) for m in problem.messages]}
    return {
        "id": problem.id,
        **({"prompt": problem.prompt} if problem.prompt else said_to),
        **({"stop": list(problem.stop)} if problem.stop else {}),
        "kind": asked.kind,
        "replies": [one.text for one in asked.candidates],
        "sources": [one.source for one in asked.candidates],
        "values": [*said.values],
        "wanted": asked.wanted,
        "low": asked.low,
        "high": asked.high,
        "reason": asked.reason,
        "annotator": said.annotator,
        "why": said.why,
        "at": when(said.at),
        "info": dict(said.info),
    }


def when(seconds: float) -> str:
    """Seconds since 1970 as a date and a time, as files have them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def reply(text: str) -> dict[str, str]:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


def _own(row: Row, number: int, annotator: str) -> tuple[Proposal, Said | None]:
    """A row with ``replies``."""
    given = {name: value for name, value in row.fields.items() if value is not None}
    if odd := sorted(given.keys() - ANSWER):
        near = get_close_matches(odd[0], ANSWER, 1)
        cure = f"did you mean {near[0]!r}?" if near else "put what is yours alone into info"
        raise UserError(f"{row.where}: {odd[0]!r} is no column of an answer: {cure}")
    texts, sources = given["replies"], given.get("sources", [])
    if not _all(texts, str) or not _all(sources, str):
        raise UserError(f'{row.where}: "replies" and "sources" must be lists of texts')
    usual = {1: "rating", 2: "pair"}.get(len(texts), "ranking")
    if (kind := given.get("kind", usual)) not in KINDS:
        raise UserError(f'{row.where}: "kind" is one of {", ".join(KINDS)}, not {kind!r}')
    problem = fields.problem_of({"id": str(number), **given}, row.where, "")
    sources = [*sources, *[""] * (len(texts) - len(sources))]
    wanted = given.get("wanted", 1)
    if type(wanted) is not int:
        raise UserError(f'{row.where}: "wanted" must be a whole number, got {wanted!r}')
    low, high = (
        fields.number_of({name: default, **given}, name, row.where)
        for name, default in (("low", 1.0), ("high", 5.0))
    )
    candidates = tuple(map(Candidate, texts, sources))
    why = str(given.get("reason", "read from a file"))
    proposal = _placed(row.where, problem, candidates, kind, why, wanted, low, high)
    if "values" not in given:
        return proposal, None
    values, info = given["values"], given.get("info", {})
    if not _all(values, int, float) or len(values) not in (0, len(texts)):
        raise UserError(
            f'{row.where}: "values" must have a number for each of the {len(texts)} "replies", '
            "the higher the better, or none for a skip"
        )
    if kind == "rating" and not all(low <= value <= high for value in values):
        raise UserError(f'{row.where}: "values" of a rating lie from {low:g} to {high:g}')
    if not isinstance(info, dict):
        raise UserError(f'{row.where}: "info" must be an object')
    info = {name: value for name, value in info.items() if value is not None}  # Parquet's
    who, at = str(given.get("annotator") or annotator), _seconds(given.get("at"), row.where)
    return proposal, Said(who, tuple(map(float, values)), str(given.get("why", "")), at, info)


def _placed(where: str, *given: Any) -> Proposal:
    """A proposal, whose refusal says where it stands."""
    try:
        return Proposal(*given)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _all(values: Any, *kinds: type) -> bool:
    """Whether it is a list of such values, finite ones, and of no other."""
    return isinstance(values, list) and all(
        type(value) in kinds and (isinstance(value, str) or isfinite(value)) for value in values
    )


def _seconds(at: Any, where: str) -> float:
    """Seconds since 1970 of a date and time, or of such a number; 0 where nobody knows."""
    if at is None:
        return 0.0
    if isinstance(at, str):
        try:
            return datetime.fromisoformat(at).timestamp()
        except (ValueError, OverflowError):
            pass
    elif isinstance(at, datetime):  # a column of Parquet
        return at.timestamp()
    elif not isinstance(at, bool) and isinstance(at, int | float) and isfinite(at):
        return float(at)
    raise UserError(
        f'{where}: "at" must be a time such as 2026-01-31T12:00:00Z or seconds since 1970, '
        f"got {at!r}"
    )


def _longer(
    problem: Problem, chosen: Sequence[Message], rejected: Sequence[Message], where: str
) -> Problem:
    """The problem with the turns that both sides have before they differ in the last."""
    if [*chosen[:-1]] != [*rejected[:-1]]:
        raise UserError(
            f"{where}: the sides differ before their last reply, and a reward model compares "
            "replies to one dialogue: cut them after the first reply that differs"
        )
    return replace(problem, messages=(*problem.messages, *chosen[:-1]))
