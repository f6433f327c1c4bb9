"""Questions to a corpus: a JSONL file, or the queries and judgements of a folder in BEIR form.

A row of a file has a ``question``, and ``answers`` (or ``answer``: one text, or several that are
all right), ``evidence`` (ids of passages, or grades by id) or both. What is asked of BEIR's queries
is evidence alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upslope.envs.datasets import Row, read_rows
from upslope.rewards.retrieval import answered, plain
from upslope.seeds import seed_of, split_of
from upslope.types import NOTHING, Split, UserError

QRELS: Mapping[str, Split] = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Question:
    """``answers``: any of them is right. ``evidence``: grades by passage id, all above 0."""

    id: str
    text: str
    split: Split
    where: str
    answers: tuple[str, ...] = ()
    evidence: Mapping[str, float] = field(default_factory=lambda: NOTHING)


def of_file(path: str) -> Iterator[Question]:
    """A file's questions, split by a hash of each; UserError for a row that asks nothing."""
    for row in read_rows(path):
        text = row.text("question").strip()
        answers = tuple(_answers(row))
        evidence = _evidence(row)
        if not answers and not evidence:
            raise UserError(f'{row.where}: give "answers", "evidence" or both to grade by')
        name = row.text("id") if "id" in row.fields else f"{seed_of('question', text):016x}"
        yield Question(name, text, split_of(text), row.where, answers, evidence)


def of_beir(folder: Path) -> Iterator[Question]:
    """The judged queries of ``queries.jsonl``, split as the files of ``qrels`` are.

    Where there is no ``train.tsv`` beside another one, by a hash of each; where there is no
    ``dev.tsv``, 8% of those to train on are held out for validation. Raises UserError.
    """
    files = {s: folder / "qrels" / f"{s}.tsv" for s in QRELS}
    files = {name: file for name, file in files.items() if file.is_file()}
    if not files:
        raise UserError(f"{folder} has no qrels/train.tsv, dev.tsv or test.tsv: set questions")
    texts = {}
    for row in read_rows(folder / "queries.jsonl"):
        texts[row.text("_id")] = (row.text("text").strip(), row.where)
    home: dict[str, Path] = {}
    for name, file in files.items():
        for query, evidence in _judged(file).items():
            if query not in texts:
                raise UserError(f"{file}: the query {query!r} is not in {folder / 'queries.jsonl'}")
            if home.setdefault(query, file) != file:
                raise UserError(f"{file}: the query {query!r} is also in {home[query]}")
            text, where = texts[query]
            split = split_of(text)
            if "train" in files and len(files) > 1:
                held_out = name == "train" and "dev" not in files and split == "validation"
                split = "validation" if held_out else QRELS[name]
            yield Question(query, text, split, where, (), evidence)


def _answers(row: Row) -> Iterator[str]:
    given = row.fields.get("answers", row.fields.get("answer", []))
    for answer in [given] if isinstance(given, str | int | float) else given or []:
        text = str(answer) if isinstance(answer, int | float | str) else ""
        if not plain(answered(text)[0]):
            raise UserError(
                f"{row.where}: the answer {str(answer)[:40]!r} has no word to compare, "
                "so mend or remove it"
            )
        yield text.strip()


def _evidence(row: Row) -> dict[str, float]:
    given: Any = row.fields.get("evidence") or {}
    graded = given if isinstance(given, Mapping) else {name: 1 for name in _named(row, given)}
    if not all(isinstance(v, int | float) and v >= 0 for v in graded.values()):
        raise UserError(f'{row.where}: grades in "evidence" must be numbers of at least 0')
    return {str(name): float(grade) for name, grade in graded.items() if grade > 0}


def _named(row: Row, given: Any) -> Sequence[str]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise UserError(f'{row.where}: "evidence" must be a list of passage ids')
    return given


def _judged(file: Path) -> dict[str, dict[str, float]]:
    """Grades above 0 by query and passage; UserError for a line that is no judgement."""
    found: dict[str, dict[str, float]] = {}
    with file.open(encoding="utf-8-sig", newline="") as opened:
        try:
            lines = [*enumerate(csv.reader(opened, delimiter="\t", quoting=csv.QUOTE_NONE), 1)]
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8: save it as UTF-8") from error
    for number, cells in lines:
        if not cells or (number == 1 and cells[-1] == "score"):
            continue
        try:
            query, passage, grade = cells[0], cells[-2], float(cells[-1])
        except (IndexError, ValueError) as error:
            raise UserError(
                f"{file}, line {number}: expected query-id, corpus-id and score between tabs, "
                "so mend or remove the line"
            ) from error
        judged = found.setdefault(query, {})
        if grade > 0:
            judged[passage] = grade
    return {query: judged for query, judged in found.items() if judged}
