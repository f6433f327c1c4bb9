"""Passages ranked by the ``bm25s`` package: an extra, faster than SQLite's index on large corpora.

Its BM25 (Lucene's, k1 = 1.5, b = 0.75) has no stemming here. Scores of every word and passage are
computed once and kept beside SQLite's index, which still holds what the passages say.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from upslope.retrieval.index import WORD, Index, opened, words_of
from upslope.retrieval.passages import Corpus, Passage
from upslope.types import UserError

if TYPE_CHECKING:
    from bm25s import BM25

EXTRA = "this ranking needs bm25s: pip install 'upslope[retrieval]', or leave ranking at fts5"


def installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("bm25s") is not None


@dataclass(frozen=True)
class Sparse:
    """The scores, and the index that holds the passages in the same order."""

    scores: BM25
    index: Index

    def search(self, query: str, k: int) -> Sequence[Passage]:
        """By BM25 over the query's different words; a passage without any of them is not found."""
        words = [word for word in words_of(query.lower()) if word in self.scores.vocab_dict]
        if not words:
            return []
        scored = np.asarray(self.scores.get_scores(words))
        found = np.flatnonzero(scored > 0)
        if len(found) > k:
            least = np.partition(scored[found], -k)[-k]
            found = found[scored[found] >= least]  # equals stay, so that order decides of them
        best = found[np.argsort(-scored[found], kind="stable")][:k]
        return [self.index.at(int(place) + 1) for place in best]

    def read(self, name: str) -> Passage | None:
        """The passage of an id."""
        return self.index.read(name)


def opened_sparse(corpus: Corpus, folder: Path) -> Sparse:
    """The corpus's scores in a folder, computed first where there are none; raises UserError."""
    if not installed():
        raise UserError(EXTRA)
    index = opened(corpus, folder)
    return _open(index, (folder / f"{corpus.digest()}.bm25s").resolve(), os.getpid())


@cache
def _open(index: Index, path: Path, process: int) -> Sparse:
    from bm25s import BM25

    if (scores := _loaded(path)) is None:
        made = BM25()
        made.index([_words(p) for p in index.all()], show_progress=False)
        _kept(made, path)
        scores = _loaded(path) or made
    return Sparse(scores, index)


def _words(passage: Passage) -> list[str]:
    """A title's words count twice, as in SQLite's index."""
    return WORD.findall(f"{passage.title} {passage.title} {passage.text}".lower())


def _loaded(path: Path) -> BM25 | None:
    """Kept scores, their arrays shared by all processes; None where there are none to be read."""
    from bm25s import BM25

    try:
        found: BM25 = BM25.load(path, mmap=True, show_progress=False)
    except (OSError, ValueError, KeyError):
        return None
    return found


def _kept(scores: BM25, path: Path) -> None:
    """Whole under its name, or not at all; who comes second leaves the first one's."""
    from filelock import FileLock

    try:
        with FileLock(f"{path}.lock"):
            hidden = path.with_name(f".{path.name}.new")
            shutil.rmtree(hidden, ignore_errors=True)
            scores.save(hidden, show_progress=False)
            if _loaded(path) is None:
                shutil.rmtree(path, ignore_errors=True)
                hidden.rename(path)
            shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"scores cannot be written to {str(path.parent)!r} ({error.strerror or error}): "
            "set index to a folder with room that may be written to"
        ) from error
