"""A store of preferences: one SQLite file of questions and answers, with who, when and why.

Several processes may use it at once, each with a ``Store`` of its own (threads, too, one each). An
annotator is never asked the same again; an answer that was undone stays on record. What is asked
is others' to choose. A page or a program that labels needs ``next_question``, ``answer``, ``undo``
and ``progress``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from upslope.preferences.asked import (
    Answer,
    Candidate,
    Counts,
    Progress,
    Proposal,
    Question,
    Said,
    asked,
    digest,
    problem_from,
)
from upslope.preferences.database import Database
from upslope.preferences.pair import SUFFIXES, is_store
from upslope.preferences.tables import CANDIDATES, FREE, LAST, LEFT, OPEN, QUESTION
from upslope.seeds import seed_of
from upslope.types import NOTHING, UserError

LEASE = 1800.0  # seconds for which a question that was shown is kept for who saw it


class Store:
    """Preferences in the file ``path``; ``clock`` gives seconds since 1970."""

    def __init__(
        self, path: str | Path, *, create: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """Open it, or with ``create`` make it; UserError where it is none, or a newer one."""
        self.path, self.clock = Path(path).expanduser(), clock
        if not is_store(self.path):
            raise UserError(f"{path} is no store of preferences: its name ends in {SUFFIXES[0]}")
        if not create and not self.path.is_file():
            raise UserError(
                f"there is no store of preferences {path}: make one with `upslope preferences "
                "import` or `propose`"
            )
        if not self.path.parent.is_dir():
            raise UserError(f"there is no folder {self.path.parent} for {path}: make it first")
        self._db = Database(self.path)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def propose(self, proposals: Iterable[Proposal]) -> int:
        """Ask these, after all that is asked already; how many are new. All or none are kept."""
        wanted = [*proposals]  # made before anybody has to wait
        with self._db.writing():
            return sum(self._keep(one)[1] for one in wanted)

    def next_question(self, annotator: str) -> Question | None:
        """What this annotator is to be asked: what they saw and left open, or the next question
        that they never answered and that still wants answers; None where there is none."""
        who = _named(annotator)
        with self._db.writing():
            now = self.clock()
            found = self._db.first(FREE, {"who": who, "since": now - LEASE})
            if found is None:
                return None
            self._show(found[0], who, now)
            return self.question(found[0])

    def answer(
        self,
        number: int,
        annotator: str,
        values: Sequence[float],
        why: str = "",
        info: Mapping[str, Any] = NOTHING,
    ) -> None:
        """Keep one number for each candidate, higher for better, or none to skip. UserError where
        this annotator has answered it, or the numbers do not fit."""
        said = Said(annotator, tuple(values), why, 0.0, info)
        if not self.answer_all([(number, said)]):
            raise UserError(f"{annotator} has answered question {number}: undo that answer first")

    def answer_all(self, given: Iterable[tuple[int, Said]]) -> int:
        """The same of many questions, by their numbers, all or none; how many are new."""
        wanted = [*given]
        with self._db.writing():
            return sum(self._add(self.question(number), said) for number, said in wanted)

    def undo(self, annotator: str) -> Question | None:
        """Take the annotator's last answer back, and give its question again; None where there is
        no answer."""
        who = _named(annotator)
        with self._db.writing():
            found = self._db.first(LAST, (who,))
            if found is None:
                return None
            now = self.clock()
            self._db.change("UPDATE answers SET undone = ? WHERE id = ?", (now, found[0]))
            self._db.change("DELETE FROM shown WHERE annotator = ?", (who,))
            self._show(found[1], who, now)
            return self.question(found[1])

    def progress(self, annotator: str) -> Progress:
        """How many this annotator has answered and skipped, and how many are left for them."""
        who = _named(annotator)
        own = "SELECT count(*) FROM answers WHERE annotator = ? AND undone IS NULL AND answer"
        said, skipped = (int(self._db.first(f"{own} {is_} '[]'", (who,))[0]) for is_ in ("!=", "="))
        return Progress(said, skipped, len(self._db.rows(LEFT, {"who": who})))

    def record(self, given: Iterable[tuple[Proposal, Said]]) -> tuple[int, int]:
        """Keep answers given elsewhere, whose values are in the order of the proposal's candidates;
        how many are new, and how many the store had or has otherwise from that annotator."""
        new, wanted = 0, [*given]
        with self._db.writing():
            for proposal, said in wanted:
                question = self.question(self._keep(proposal)[0])
                texts = [one.text for one in proposal.candidates]
                order = [texts.index(one.text) for one in question.candidates]
                values = tuple(said.values[i] for i in order if said.values)
                new += self._add(question, said._replace(values=values))
        return new, len(wanted) - new

    def question(self, number: int) -> Question:
        """The question of that number; UserError where there is none."""
        row = self._db.first(QUESTION, (number,))
        if row is None:
            raise UserError(f"{self.path} has no question {number}: ask for the next one")
        key, said, name, kind, *rest = row
        found = self._db.rows(CANDIDATES, (number,))
        candidates = tuple(Candidate(json.loads(text), source) for text, source in found)
        return Question(number, key, problem_from(said, name), kind, candidates, *rest)

    def questions(self) -> Iterator[Question]:
        """All in the order in which they were asked."""
        for (number,) in self._db.rows("SELECT id FROM questions ORDER BY id"):
            yield self.question(number)

    def left(self, annotator: str) -> Iterator[Question]:
        """Those that want more answers and have none of this annotator."""
        for (number,) in self._db.rows(f"{LEFT} ORDER BY q.id", {"who": _named(annotator)}):
            yield self.question(number)

    def keys(self) -> set[str]:
        """Of all questions, as ``Proposal.key`` has them."""
        return {key for (key,) in self._db.rows("SELECT key FROM questions")}

    def answers(self) -> Iterator[Answer]:
        """All that stand, by question and then in the order in which they were given."""
        rows = self._db.rows(
            "SELECT question, annotator, answer, why, at, info FROM answers "
            "WHERE undone IS NULL ORDER BY question, id"
        )
        question: Question | None = None
        for number, who, values, why, at, info in rows:
            if question is None or question.number != number:
                question = self.question(number)
            said = Said(who, tuple(json.loads(values)), why, at, json.loads(info))
            yield Answer(question, said)

    def counts(self) -> Counts:
        """How much there is of everything."""

        def one(query: str) -> int:
            return int(self._db.first(query)[0])

        stand = "FROM answers WHERE undone IS NULL"
        said = [tuple(json.loads(row[0])) for row in self._db.rows(f"SELECT answer {stand}")]
        by = self._db.rows(f"SELECT annotator, count(*) {stand} GROUP BY annotator ORDER BY 1")
        kinds = self._db.rows("SELECT kind, count(*) FROM questions GROUP BY kind ORDER BY 1")
        return Counts(
            one("SELECT count(*) FROM problems"),
            one("SELECT count(*) FROM texts"),
            dict(kinds),
            len(self._db.rows(OPEN)),
            len(said),
            sum(len(values) > 1 and len(set(values)) == 1 for values in said),
            said.count(()),
            one("SELECT count(*) FROM answers WHERE undone IS NOT NULL"),
            dict(by),
        )

    def _keep(self, proposal: Proposal) -> tuple[int, bool]:
        """The question's number, and whether it is new. Replies are shown in an order by hash, so
        that no place says where a reply comes from."""
        db, key, said = self._db, proposal.key, asked(proposal.problem)
        if found := db.first("SELECT id FROM questions WHERE key = ?", (key,)):
            return int(found[0]), False
        problem = self._once("problems", "asked", digest(said), said)
        name, why = _plain(proposal.problem.id), _plain(proposal.reason)
        row = (key, problem, name, proposal.kind, why, proposal.wanted)
        number = db.change(
            "INSERT INTO questions (key, problem, name, kind, reason, wanted, low, high, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, proposal.low, proposal.high, self.clock()),
        ).lastrowid
        assert number is not None
        shown = sorted(proposal.candidates, key=lambda one: seed_of("place", key, digest(one.text)))
        for place, one in enumerate(shown):
            # As JSON, which has half a surrogate pair, too; SQLite's text has not.
            text = self._once("texts", "text", digest(one.text), json.dumps(one.text))
            shown_as = (number, place, text, _plain(one.source))
            db.change("INSERT INTO candidates VALUES (?, ?, ?, ?)", shown_as)
        return number, True

    def _once(self, table: str, column: str, key: str, value: str) -> int:
        """The row of a text, which is kept once."""
        insert = f"INSERT OR IGNORE INTO {table} (digest, {column}) VALUES (?, ?)"
        self._db.change(insert, (key, value))
        return int(self._db.first(f"SELECT id FROM {table} WHERE digest = ?", (key,))[0])

    def _add(self, question: Question, said: Said) -> bool:
        """Keep an answer; False where this annotator has one that stands."""
        who, values = _named(said.annotator), json.dumps([*question.checked(said.values)])
        info = json.dumps(dict(said.info), default=str)
        added = self._db.change(
            "INSERT OR IGNORE INTO answers (question, annotator, answer, why, at, info) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                question.number,
                who,
                values,
                _plain(said.why),
                said.at or round(self.clock(), 3),
                info,
            ),
        ).rowcount
        self._db.change(
            "DELETE FROM shown WHERE question = ? AND annotator = ?", (question.number, who)
        )
        return added == 1

    def _show(self, number: int, who: str, now: float) -> None:
        self._db.change("INSERT OR REPLACE INTO shown VALUES (?, ?, ?)", (number, who, now))


def _named(annotator: str) -> str:
    if not (who := _plain(annotator).strip()):
        raise UserError("an annotator needs a name")
    return who


def _plain(text: str) -> str:
    """Without half surrogate pairs, which a terminal makes of bytes that are no text."""
    return text.encode("utf-8", "replace").decode()
