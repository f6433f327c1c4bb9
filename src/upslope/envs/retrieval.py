"""Questions to a corpus of one's own: search for passages, open them, answer and cite.

A corpus is a folder of text and Markdown files, a JSONL file or a folder in BEIR form; questions
are a JSONL file, or BEIR's own. Passages are ranked by BM25, in an index that is built once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from upslope.retrieval.asking import as_problem, cited, looking, replies
from upslope.retrieval.index import Searches, folder_of, opened
from upslope.retrieval.passages import Corpus
from upslope.retrieval.questions import Question, of_beir, of_file
from upslope.retrieval.sparse import EXTRA, installed, opened_sparse
from upslope.rewards.retrieval import Weights, answered, graded
from upslope.tools import Call
from upslope.tools.play import FORMS, Limits
from upslope.types import Episode, Problem, Reward, Split, Trajectory, UserError

Ranking = Literal["fts5", "bm25s"]


@dataclass(frozen=True)
class Retrieval:
    """``corpus``: where the passages are; a file's are of at most ``words`` words.

    ``questions``: a JSONL file; BEIR folders have their own. ``ranking``: SQLite's, or that of the
    package bm25s. ``index``: the folder that indexes are kept in, or the user's cache. A search
    lists ``results`` passages, with so many characters of ``excerpt``. Evidence counts among the
    first ``k`` passages that a play puts forward: cited, then opened, then listed.
    """

    corpus: str
    questions: str = ""
    ranking: Ranking = "fts5"
    index: str = ""
    words: int = 200
    form: Literal["react", "json"] = "react"
    results: int = 5
    excerpt: int = 160
    k: int = 10
    weights: Weights = field(default_factory=Weights)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if min(self.words, self.results, self.k) < 1 or self.excerpt < 0:
            raise UserError("words, results and k must be at least 1, and excerpt at least 0")
        corpus = Corpus.at(self.corpus, self.words)
        if not self.questions and not corpus.beir:
            raise UserError(
                "name the questions: set questions to a .jsonl file; only a corpus in BEIR form "
                "has its own"
            )
        if self.questions and not Path(self.questions).expanduser().is_file():
            raise UserError(f"questions = {self.questions!r} does not exist: give a .jsonl file")
        if self.ranking == "bm25s" and not installed():
            raise UserError(EXTRA)
        folder_of(self.index)

    def problems(self, split: Split) -> Sequence[Problem]:
        """The split's questions in their order; UserError where the evidence is no passage."""
        index, found = self._index(), list[Problem]()
        texts, names = dict[str, str](), dict[str, str]()
        for one in self._questions():
            _once(texts, one.text, "question", one)
            _once(names, one.id, f"id {one.id!r}", one)
            for name in one.evidence:
                if index.read(name) is None:
                    raise UserError(
                        f"{one.where}: the evidence {name!r} is no passage of the corpus: "
                        "mend the id, or leave it out"
                    )
            if one.split == split:
                found.append(self._problem(one))
        return found

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Episode]:
        """Both tools over the corpus."""
        given = (FORMS[self.form], self.limits, self.results, self.excerpt, problem)
        async with looking(self._index(), *given) as play:
            yield play

    def solved(self, problem: Problem) -> Sequence[str]:
        """Open each piece of evidence, and answer."""
        calls = [Call("open", {"id": name}) for name in problem.info["evidence"]]
        return replies(FORMS[self.form], calls, problem.solution)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """By ``weights``; parts as ``rewards.retrieval`` names them."""
        return [graded(t, self.weights, self.k) for t in trajectories]

    def _questions(self) -> Iterator[Question]:
        if self.questions:
            return of_file(self.questions)
        return of_beir(Path(self.corpus).expanduser())

    def _index(self) -> Searches:
        corpus, folder = Corpus.at(self.corpus, self.words), folder_of(self.index)
        whole = replace(corpus, path=corpus.path.resolve())
        return searched(whole, folder.resolve(), self.ranking, os.getpid())

    def _problem(self, one: Question) -> Problem:
        """Best evidence first; with more than a play can open, no solution is known."""
        graded_first = sorted(one.evidence.items(), key=lambda pair: -pair[1])
        answer = answered(one.answers[0])[0] if one.answers else ""
        known = len(graded_first) < self.limits.turns
        solution = cited(answer, [name for name, _ in graded_first]) if known else ""
        given = (one.id, one.text, one.answers, dict(graded_first), solution)
        return as_problem(*given, self.form, self.limits)


@cache
def searched(corpus: Corpus, folder: Path, ranking: Ranking, process: int) -> Searches:
    """A corpus's index, opened once in each process."""
    return opened(corpus, folder) if ranking == "fts5" else opened_sparse(corpus, folder)


def _once(seen: dict[str, str], key: str, what: str, one: Question) -> None:
    if (first := seen.setdefault(key, one.where)) != one.where:
        raise UserError(f"{one.where} has the same {what} as {first}: remove one of them")
