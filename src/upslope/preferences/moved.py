"""Between files and stores: pairs and answers read in and written out, all or none.

What a form cannot hold (a tie, a skip, in hh-rlhf a system prompt) is counted with its reason,
never dropped without a word.
"""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from upslope.envs.datasets import KINDS, Row, read_rows
from upslope.files import explained, replace_file
from upslope.preferences.answered import pairs_in, wins
from upslope.preferences.asked import Answer, Proposal, Said
from upslope.preferences.formats import (
    FORMS,
    answer_of,
    pair_of,
    row_of_answer,
    row_of_pair,
    when,
)
from upslope.preferences.pair import ALL, Pair, Selection, is_store
from upslope.preferences.store import Store
from upslope.types import UserError

EVERYTHING = "answers"  # the form that holds every kind of answer


@dataclass(frozen=True)
class Moved:
    """How many answers (or pairs) were read or written, how many the store had before, how many
    questions came without an answer, and why others were left out, with an example of it."""

    done: int
    known: int = 0
    asked: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    example: str = ""

    def lines(self, verb: str) -> Iterator[str]:
        """In sentences."""
        yield f"{self.done:,} {verb}"
        if self.known:
            yield f"{self.known:,} were known: their annotators had answered the same before"
        if self.asked:
            yield f"{self.asked:,} questions without an answer asked"
        for reason, count in sorted(self.left_out.items()):
            yield f"{count:,} left out: {reason}"
        if self.example:
            yield f"for example {self.example}"


def pairs_of(path: str | Path, which: Selection = ALL) -> Iterator[Pair]:
    """Pairs of a store, or of a JSONL or Parquet file in the forms of Hugging Face, TRL and
    hh-rlhf; ``info`` has the row's other columns. UserError, with file and line, for what is none,
    and where ``which`` selects of a file, or nothing."""
    if not is_store(path):
        if which != ALL:
            raise UserError(
                f"annotators, kinds and votes select from a store, and {path} is a file: import it "
                "with `upslope preferences import`, or leave them out"
            )
        return pairs_from(read_rows(path))
    return iter(stored(path, which))


def pairs_from(rows: Iterable[Row]) -> Iterator[Pair]:
    """A pair of each row."""
    for number, row in enumerate(rows, 1):
        yield pair_of(row, number)


def stored(path: str | Path, which: Selection = ALL) -> list[Pair]:
    """The pairs of a store; UserError where there are none, or nobody of that name answered."""
    with Store(path) as store:
        known = store.counts().by
        if other := [name for name in which.annotators if name not in known]:
            raise UserError(
                f"nobody called {other[0]!r} has answered in {path}: choose annotators from "
                f"{', '.join(known) or 'none, for it has no answers'}"
            )
        found = [*pairs_in(store.answers(), which)]
    if not found:
        raise UserError(f"{path} has no pairs so selected: label more, or select less")
    return found


def read_into(store: Store, path: str | Path, annotator: str, *, lenient: bool = False) -> Moved:
    """The answers of a file, by ``annotator`` where a row names nobody, and its questions without
    any. UserError for a row that cannot be; ``lenient`` counts it and goes on, unless all are."""
    given, asked = list[tuple[Proposal, Said]](), list[Proposal]()
    wrong, example = Counter[str](), ""
    times = Counter[tuple[str, str]]()
    for number, row in enumerate(read_rows(path), 1):
        try:
            proposal, said = answer_of(row, number, annotator)
        except UserError as error:
            if not lenient:
                raise UserError(
                    f"{error} (nothing was imported; --lenient leaves such out)"
                ) from None
            wrong[str(error).removeprefix(f"{row.where}: ")] += 1
            example = example or row.where
            continue
        if said is None:
            asked.append(proposal)
            continue
        # What stands in the file again is another answer, whatever it says.
        again = times[said.annotator, proposal.key]
        times[said.annotator, proposal.key] += 1
        given.append((replace(proposal, again=again), said))
    if not given and not asked:
        raise UserError(f"{path} has no answer: {next(iter(wrong))} ({example})")
    new, known = store.record(given)
    return Moved(new, known, store.propose(asked), dict(wrong), example)


def write_from(store: Store, path: str | Path, form: str, which: Selection = ALL) -> Moved:
    """Pairs of a store in a form that others read, or every answer as it is (``answers``)."""
    if form not in (*FORMS, EVERYTHING):
        raise UserError(f"--form is one of {', '.join(FORMS)} and {EVERYTHING}, not {form!r}")
    answers = [*store.answers()]
    if form == EVERYTHING:
        if which != ALL:
            raise UserError(f"--form {EVERYTHING} writes every answer: leave the selection out")
        rows, wrong = [*map(row_of_answer, answers)], Counter[str]()
    else:
        rows, wrong = _rows(answers, form, which)
    if not rows:
        raise UserError(f"{store.path} has nothing to write: {next(iter(wrong), 'no answers')}")
    write_rows(Path(path).expanduser(), rows)
    return Moved(len(rows), left_out=dict(wrong))


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file; UserError where that fails."""
    if not file.name.endswith(tuple(kind[1:] for kind in KINDS)):
        raise UserError(f"{file} is none of {', '.join(KINDS)}: name it so")
    with explained(file):
        if file.suffix == ".parquet":
            replace_file(file, _parquet(file, rows))
            return
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        replace_file(file, gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)


def _rows(
    answers: Sequence[Answer], form: Any, which: Selection
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Pairs in a form, and what is left out."""
    rows, wrong = list[dict[str, Any]](), Counter[str]()
    for answer in answers:
        if not [*wins(answer)]:
            wrong["skipped" if not answer.values else "a tie, or one reply alone"] += 1
    whole = (_told(answer) for answer in answers)
    for pair in pairs_in(whole, which):
        try:
            rows.append(row_of_pair(pair, form))
        except UserError as error:
            wrong[str(error)] += 1
    return rows, wrong


def _told(answer: Answer) -> Answer:
    """With when and why among what is written beside."""
    said = answer.said
    info = {**said.info, "at": when(said.at), **({"why": said.why} if said.why else {})}
    return Answer(answer.question, said._replace(info=info))


def _parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A table of every row's columns, null where a row has none."""
    from pyarrow import ArrowException, Table, parquet

    names = dict.fromkeys(name for row in rows for name in row)
    # An object without any field is no column of Parquet.
    whole = [
        {name: None if row.get(name) == {} else row.get(name) for name in names} for row in rows
    ]
    held = io.BytesIO()
    try:
        parquet.write_table(Table.from_pylist(whole), held)
    except ArrowException as error:
        raise UserError(
            f"{file} cannot hold these columns ({error}): write .jsonl in its place"
        ) from error
    return held.getvalue()
