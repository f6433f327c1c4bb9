"""A store of preferences: one SQLite file of questions and answers, with who, when and why.

Several processes may use it at once, each with a ``Store`` of its own (threads, too, one each). An
annotator is never asked the same again; an answer that was undone stays on record. What is asked
is others' to choose.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from upslope.preferences.asked import (
    Answer,
    Candidate,
    Counts,
    Proposal,
    Question,
    Said,
    asked,
    digest,
    problem_from,
)
from upslope.preferences.tables import FREE, OPEN, OURS, TABLES, VERSION
from upslope.seeds import seed_of
from upslope.types import NOTHING, UserError

SUFFIXES = (".sqlite", ".sqlite3", ".db")
LEASE = 1800.0  # seconds for which a question that was shown is kept for who saw it
WAIT = 60.0  # seconds for another process to finish its transaction


class Store:
    """Preferences in the file ``path``; ``clock`` gives seconds since 1970."""

    def __init__(
        self, path: str | Path, *, create: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        """Open it, or with ``create`` make it; UserError where it is none, or of a newer Upslope."""
        self.path, self.clock = Path(path), clock
        if not create and not self.path.is_file():
            raise UserError(
                f"there is no store of preferences {path}: make one with `upslope preferences "
                "import` or `propose`"
            )
        with self._told():
            self._db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()

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
        with self._writing():
            return sum(self._keep(one)[1] for one in wanted)

    def next_question(self, annotator: str) -> Question | None:
        """What this annotator is to be asked: what they saw and left open, or the next question
        that they never answered and that still wants answers; None where there is none."""
        who = _named(annotator)
        with self._writing():
            now = self.clock()
            found = self._db.execute(FREE, {"who": who, "since": now - LEASE}).fetchone()
            if found is None:
                return None
            self._db.execute("INSERT OR REPLACE INTO shown VALUES (?, ?, ?)", (found[0], who, now))
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
        who = _named(annotator)
        with self._writing():
            given = self.question(number).checked(values)
            if not self._add(number, who, given, why, self.clock(), info):
                raise UserError(f"{who} has answered question {number}: undo that answer first")

    def undo(self, annotator: str) -> Question | None:
        """Take the annotator's last answer back, and give its question again; None where there is
        no answer."""
        who = _named(annotator)
        with self._writing():
            found = self._db.execute(
                "SELECT id, question FROM answers WHERE annotator = ? AND undone IS NULL "
                "ORDER BY id DESC LIMIT 1",
                (who,),
            ).fetchone()
            if found is None:
                return None
            now = self.clock()
            self._db.execute("UPDATE answers SET undone = ? WHERE id = ?", (now, found[0]))
            self._db.execute("DELETE FROM shown WHERE annotator = ?", (who,))
            self._db.execute("INSERT INTO shown VALUES (?, ?, ?)", (found[1], who, now))
            return self.question(found[1])

    def record(self, given: Iterable[tuple[Proposal, Said]]) -> tuple[int, int]:
        """Keep answers given elsewhere, whose values are in the order of the proposal's candidates;
        how many are new, and how many the store had or has otherwise from that annotator."""
        new, wanted = 0, [*given]
        with self._writing():
            for proposal, said in wanted:
                number, _ = self._keep(proposal)
                question = self.question(number)
                texts = [one.text for one in proposal.candidates]
                order = [texts.index(one.text) for one in question.candidates]
                values = question.checked([said.values[i] for i in order if said.values])
                who, at = _named(said.annotator), said.at or self.clock()
                new += self._add(number, who, values, said.why, at, said.info)
        return new, len(wanted) - new

    def question(self, number: int) -> Question:
        """The question of that number; UserError where there is none."""
        row = self._db.execute(
            "SELECT q.key, p.asked, q.name, q.kind, q.reason, q.wanted, q.low, q.high "
            "FROM questions q JOIN problems p ON p.id = q.problem WHERE q.id = ?",
            (number,),
        ).fetchone()
        if row is None:
            raise UserError(f"{self.path} has no question {number}: ask for the next one")
        key, said, name, kind, *rest = row
        found = self._db.execute(
            "SELECT t.text, c.source FROM candidates c JOIN texts t ON t.id = c.text "
            "WHERE c.question = ? ORDER BY c.place",
            (number,),
        )
        candidates = tuple(Candidate(json.loads(text), source) for text, source in found)
        return Question(number, key, problem_from(said, name), kind, candidates, *rest)

    def questions(self, *, unanswered: bool = False) -> Iterator[Question]:
        """All in the order in which they were asked, or those that still want answers."""
        query = OPEN if unanswered else "SELECT id FROM questions ORDER BY id"
        for (number,) in self._db.execute(query).fetchall():
            yield self.question(number)

    def answers(self) -> Iterator[Answer]:
        """All that stand, by question and then in the order in which they were given."""
        rows = self._db.execute(
            "SELECT question, annotator, answer, why, at, info FROM answers "
            "WHERE undone IS NULL ORDER BY question, id"
        ).fetchall()
        question: Question | None = None
        for number, who, values, why, at, info in rows:
            if question is None or question.number != number:
                question = self.question(number)
            said = Said(who, tuple(json.loads(values)), why, at, json.loads(info))
            yield Answer(question, said)

    def counts(self) -> Counts:
        """How much there is of everything."""

        def one(query: str) -> int:
            return int(self._db.execute(query).fetchone()[0])

        stand = "FROM answers WHERE undone IS NULL"
        said = [tuple(json.loads(row[0])) for row in self._db.execute(f"SELECT answer {stand}")]
        by = self._db.execute(f"SELECT annotator, count(*) {stand} GROUP BY annotator ORDER BY 1")
        return Counts(
            one("SELECT count(*) FROM problems"),
            one("SELECT count(*) FROM texts"),
            one("SELECT count(*) FROM questions"),
            len(self._db.execute(OPEN).fetchall()),
            len(said),
            sum(len(values) > 1 and len(set(values)) == 1 for values in said),
            said.count(()),
            one("SELECT count(*) FROM answers WHERE undone IS NOT NULL"),
            dict(by.fetchall()),
        )

    def _keep(self, proposal: Proposal) -> tuple[int, bool]:
        """The question's number, and whether it is new. Replies are shown in an order by hash, so
        that no place says where a reply comes from."""
        db, key, said = self._db, proposal.key, asked(proposal.problem)
        if found := db.execute("SELECT id FROM questions WHERE key = ?", (key,)).fetchone():
            return int(found[0]), False
        problem = self._once("problems", "asked", digest(said), said)
        row = (key, problem, proposal.problem.id, proposal.kind, proposal.reason, proposal.wanted)
        number = db.execute(
            "INSERT INTO questions (key, problem, name, kind, reason, wanted, low, high, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, proposal.low, proposal.high, self.clock()),
        ).lastrowid
        assert number is not None
        shown = sorted(proposal.candidates, key=lambda one: seed_of("place", key, digest(one.text)))
        for place, one in enumerate(shown):
            # As JSON, which has half a surrogate pair, too; SQLite's text has not.
            text = self._once("texts", "text", digest(one.text), json.dumps(one.text))
            row = (number, place, text, one.source)
            db.execute("INSERT INTO candidates VALUES (?, ?, ?, ?)", row)
        return number, True

    def _once(self, table: str, column: str, key: str, value: str) -> int:
        """The row of a text, which is kept once."""
        values = (key, value)
        self._db.execute(
            f"INSERT OR IGNORE INTO {table} (digest, {column}) VALUES (?, ?)", values
        )
        found = self._db.execute(f"SELECT id FROM {table} WHERE digest = ?", (key,)).fetchone()
        return int(found[0])

    def _add(
        self,
        number: int,
        who: str,
        values: Sequence[float],
        why: str,
        at: float,
        info: Mapping[str, Any],
    ) -> bool:
        """Keep an answer; False where this annotator has one that stands."""
        row = (number, who, json.dumps([*values]), why, at, json.dumps(dict(info), default=str))
        added = self._db.execute(
            "INSERT OR IGNORE INTO answers (question, annotator, answer, why, at, info) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            row,
        ).rowcount
        self._db.execute("DELETE FROM shown WHERE question = ? AND annotator = ?", (number, who))
        return added == 1

    def _prepare(self) -> None:
        """Make the tables where the file is new; UserError where it is something else."""
        own, version = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if own == OURS and version > VERSION:
            raise UserError(
                f"{self.path} was written by a newer Upslope (its tables are of version {version}, "
                f"and this one knows {VERSION}): install that one"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        with self._writing():
            if self._db.execute("PRAGMA application_id").fetchone()[0] == OURS:
                return
            if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise UserError(f"{self.path} is another program's database: name another file")
            for statement in filter(str.strip, TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {OURS}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction: all of it or nothing, with no other writer meanwhile."""
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite says as one sentence."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise UserError(f"the store of preferences {self.path} failed: {error}") from error


def _named(annotator: str) -> str:
    if not (who := annotator.strip()):
        raise UserError("an annotator needs a name")
    return who
