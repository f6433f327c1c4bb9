"""Whether held-out problems are also trained on: word for word, respelt, or for the most part.

Texts are compared, nothing else: a problem asked in other words is not found.
"""

from __future__ import annotations

import os.path
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from upslope.types import Problem

# Numbers with their thousands, words, and signs, since 3-4 is another question than 3+4.
WORD = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s]")
HYPHEN = re.compile(r"(?<=[^\W\d_])[-‐‑](?=[^\W\d_])")
SILENT = frozenset(".,;:!?\"'`´‘’“”…")
RUN = 13  # words in a row that do not repeat by chance, as in the GPT-3 report (arXiv:2005.14165)
MOST = 0.5
TEMPLATE = 0.01  # a run in more of the train problems than this, and in 3, is the env's own wording


@dataclass(frozen=True)
class Overlap:
    """What ``train`` and ``held_out`` problems, so many, have in common.

    ``same``: (held-out id, train id) where the words and the answer are the same. ``near``:
    held-out ids, others than these, most of whose runs of 13 words are in train problems.
    """

    train: int
    held_out: int
    same: tuple[tuple[str, str], ...]
    near: tuple[str, ...]


def overlap(train: Sequence[Problem], held_out: Sequence[Problem]) -> Overlap:
    """Compare the questions without case, spacing and punctuation.

    What all problems begin or end with (instructions, few-shot examples) is left out, and so are
    runs that many train problems share. Where all ask the same, texts say nothing.
    """
    rows = [words(question(p)) for p in (*train, *held_out)]
    start = len(os.path.commonprefix(rows))  # noqa: RUF071
    rows = [row[start:] for row in rows]
    end = len(os.path.commonprefix([row[::-1] for row in rows]))  # noqa: RUF071
    rows = [row[: len(row) - end] for row in rows]
    known: dict[str, list[Problem]] = {}
    for problem, row in zip(train, rows, strict=False):
        known.setdefault(" ".join(row), []).append(problem)
    same = dict[str, str]()
    for problem, row in zip(held_out, rows[len(train) :], strict=True):
        for other in known.get(" ".join(row), ()) if any(rows) else ():
            if _agree(problem.answer, other.answer) and _agree(problem.solution, other.solution):
                same.setdefault(problem.id, other.id)
    shares = _shared(rows[: len(train)], rows[len(train) :])
    near = [p.id for p, share in zip(held_out, shares, strict=True) if share >= MOST]
    return Overlap(
        len(train), len(held_out), tuple(same.items()), tuple(i for i in near if i not in same)
    )


def question(problem: Problem) -> str:
    """All that the policy is asked, as text."""
    return problem.prompt or "\n".join(str(m["content"]) for m in problem.messages)


def words(text: str) -> list[str]:
    """Words, numbers and signs, without case and punctuation."""
    plain = HYPHEN.sub(" ", unicodedata.normalize("NFC", text).casefold())
    return [word.replace(",", "") for word in WORD.findall(plain) if word not in SILENT]


def _agree(answer: str, other: str) -> bool:
    """Whether two answers can be the same; one that nobody knows agrees with all."""
    return not answer or not other or answer.strip() == other.strip()


def _shared(train: Sequence[Sequence[str]], held_out: Sequence[Sequence[str]]) -> np.ndarray:
    """For each held-out row, the share of its runs that a few train rows have; 0 without runs."""
    numbers: dict[str, int] = {}
    (ours, owner), (theirs, _) = _runs(held_out, numbers), _runs(train, numbers)
    known, counts = np.unique(theirs, return_counts=True)
    place = np.searchsorted(known, ours)
    there = np.append(known, 0)[place] == ours
    times = np.where((place < len(known)) & there, np.append(counts, 0)[place], 0)
    own = times <= max(2, TEMPLATE * len(train))
    found = np.bincount(owner, own & (times > 0), len(held_out))
    return found / np.maximum(1, np.bincount(owner, own, len(held_out)))


def _runs(rows: Sequence[Sequence[str]], numbers: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """A 64-bit hash of each run of ``RUN`` words within a row, and the row that it is in."""
    lengths = np.array([len(row) for row in rows], dtype=int)
    flat = [numbers.setdefault(word, len(numbers)) for row in rows for word in row]
    owner = np.repeat(np.arange(len(rows)), lengths)
    place = np.flatnonzero(owner[: 1 - RUN] == owner[RUN - 1 :])
    odd = np.random.default_rng(0).integers(0, 2**63, RUN, dtype=np.uint64) * 2 + 1
    codes = np.array(flat, dtype=np.uint64)
    hashes = np.zeros(len(place), dtype=np.uint64)
    for offset, factor in enumerate(odd):
        hashes += (codes[place + offset] + 1) * factor
    return hashes, owner[place]
