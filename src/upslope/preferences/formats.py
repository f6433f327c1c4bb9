"""Pairs in files and stores: the forms of Hugging Face, TRL and hh-rlhf, read and written.

A row is read by ``pair_of``, wherever it stands. What a form cannot hold (a tie, a skip, in hh-rlhf
a system prompt) is counted with its reason, never dropped without a word.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from upslope import fields
from upslope.envs.datasets import Row, read_rows
from upslope.files import explained, replace_file
from upslope.preferences.answered import won
from upslope.preferences.asked import Answer, Candidate, Proposal, Said
from upslope.preferences.learned import Pair
from upslope.preferences.store import Store
from upslope.preferences.transcripts import is_transcript, messages_of, transcript_of
from upslope.types import Message, Problem, UserError

Form = Literal["hf", "trl", "hh"]
FORMS: tuple[Form, ...] = get_args(Form)
USED = {"prompt", "messages", "chosen", "rejected", "id", "stop"}
OWN = ("annotator", "why", "at", "source_chosen", "source_rejected")  # columns of a store's own


@dataclass(frozen=True)
class Moved:
    """How many answers were read or written, how many the store had before, and why others were
    left out, each reason with its count and an example of it."""

    done: int
    known: int
    left_out: Mapping[str, int]
    example: str = ""

    def lines(self, verb: str) -> Iterator[str]:
        """In sentences."""
        yield f"{self.done:,} answers {verb}"
        if self.known:
            yield f"{self.known:,} were known: their annotators had answered the same before"
        for reason, count in sorted(self.left_out.items()):
            yield f"{count:,} left out: {reason}"
        if self.example:
            yield f"for example {self.example}"


def pair_of(row: Row, number: int) -> Pair:
    """The pair of a row in any of the forms; ``info`` has its other columns. UserError, with file
    and line, for equal sides, for sides that answer different dialogues, and for no sides."""
    given = {name: value for name, value in row.fields.items() if value is not None}
    if is_transcript(given.get("chosen")) and is_transcript(given.get("rejected")):
        whole = [messages_of(given[side]) for side in ("chosen", "rejected")]
        given |= {"chosen": whole[0], "rejected": whole[1]}
    asked, sides = fields.sides_of(given, row.where)
    problem = fields.problem_of({"id": str(number), **asked}, row.where, "")
    texts = [side if isinstance(side, str) else str(side[-1]["content"]) for side in sides]
    if not isinstance(sides[0], str) and max(map(len, sides)) > 1:
        problem = _longer(problem, *sides, row.where)
    info = {name: value for name, value in given.items() if name not in USED}
    return Pair(problem, texts[0], texts[1], info)


def in_store(path: Path) -> Iterator[Pair]:
    """Every two replies of which somebody said that one is better, answer by answer; ``info`` has
    who said it (``annotator``), and what a file or ratings said beside."""
    with Store(path) as store:
        for answer in store.answers():
            for better, worse, ahead in won(answer):
                yield _pair(answer, better, worse, ahead)


def read_into(store: Store, path: str | Path, annotator: str) -> Moved:
    """The pairs of a file as answers, by ``annotator`` where a row names none. Rows that are no
    pairs are counted; UserError where all are."""
    given, wrong, example = list[tuple[Proposal, Said]](), Counter[str](), ""
    times = Counter[tuple[str, str]]()
    for number, row in enumerate(read_rows(path), 1):
        try:
            proposal, said = _answer(pair_of(row, number), annotator, row.where)
        except UserError as error:
            wrong[str(error).removeprefix(f"{row.where}: ")] += 1
            example = example or row.where
            continue
        # A pair that stands in the file again is another answer, whatever it says.
        again = times[said.annotator, proposal.key]
        times[said.annotator, proposal.key] += 1
        given.append((replace(proposal, again=again), said))
    if not given:
        raise UserError(f"{path} has no pair: {next(iter(wrong))} ({example})")
    new, known = store.record(given)
    return Moved(new, known, dict(wrong), example)


def write_from(store: Store, path: Path, form: Form) -> Moved:
    """Every pair of a store in a form that others read; what it cannot hold is counted.

    ``hf``: both sides as messages, or as text with its prompt. ``trl``: an explicit prompt.
    Both with who said it, when and why, and a file's own columns. ``hh``: transcripts alone.
    """
    rows, wrong = list[dict[str, Any]](), Counter[str]()
    for answer in store.answers():
        found = [*won(answer)]
        if not found:
            wrong["skipped" if not answer.values else "a tie, or one reply alone"] += 1
        for better, worse, ahead in found:
            try:
                rows.append(_row(_pair(answer, better, worse, ahead), answer, form))
            except UserError as error:
                wrong[str(error)] += 1
    with explained(path):
        replace_file(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return Moved(len(rows), 0, dict(wrong))


def _pair(answer: Answer, better: Candidate, worse: Candidate, ahead: float) -> Pair:
    """A pair with what is known of it; ratings have a margin."""
    question, said = answer.question, answer.said
    info: dict[str, Any] = {**said.info, "annotator": said.annotator}
    if question.kind == "rating":
        info["margin"] = ahead
    info |= {
        f"source_{side}": one.source
        for side, one in (("chosen", better), ("rejected", worse))
        if one.source
    }
    return Pair(question.problem, better.text, worse.text, info)


def _answer(pair: Pair, annotator: str, where: str) -> tuple[Proposal, Said]:
    """A file's pair as a question and what was said of it."""
    info = {**pair.info}
    who, why, at, *sources = (info.pop(name, None) for name in OWN)
    scores = [info.get(f"score_{side}") for side in ("chosen", "rejected")]
    if all(isinstance(one, int | float) for one in scores) and scores[0] <= scores[1]:  # type: ignore[operator]
        raise UserError(f"{where}: a pair without a winner, by its scores")
    sides = zip((pair.chosen, pair.rejected), sources, strict=True)
    candidates = tuple(Candidate(text, str(source or "")) for text, source in sides)
    seconds = datetime.fromisoformat(at).timestamp() if isinstance(at, str) else 0.0
    said = Said(str(who or annotator), (1.0, 0.0), str(why or ""), seconds, info)
    return Proposal(pair.problem, candidates, reason="read from a file"), said


def _row(pair: Pair, answer: Answer, form: Form) -> dict[str, Any]:
    """A pair in a form; UserError, without a place, for what the form cannot hold."""
    problem, said = pair.problem, answer.said
    if form == "hh":
        sides = (pair.chosen, pair.rejected)
        told = [transcript_of([*problem.messages, reply(text)]) for text in sides]
        if problem.prompt or not all(told):
            raise UserError("no dialogue of Human and Assistant in turn, as hh-rlhf has them")
        return {"chosen": told[0], "rejected": told[1]}
    row: dict[str, Any] = {"id": problem.id, **pair.info}
    row |= {"why": said.why} if said.why else {}
    row |= {"at": datetime.fromtimestamp(said.at, UTC).isoformat()}
    row |= {"stop": list(problem.stop)} if problem.stop else {}
    if problem.prompt:
        return {**row, "prompt": problem.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    before = [dict(message) for message in problem.messages]
    chosen, rejected = [reply(pair.chosen)], [reply(pair.rejected)]
    if form == "trl":
        return {**row, "prompt": before, "chosen": chosen, "rejected": rejected}
    return {**row, "chosen": [*before, *chosen], "rejected": [*before, *rejected]}


def reply(text: str) -> dict[str, str]:
    """A message of the assistant."""
    return {"role": "assistant", "content": text}


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


def pairs_from(rows: Iterable[Row]) -> Iterator[Pair]:
    """A pair of each row."""
    for number, row in enumerate(rows, 1):
        yield pair_of(row, number)
