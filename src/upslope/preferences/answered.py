"""What a store's answers come to: values [annotator unit] for agreement, and who beat whom.

A pair and a ranking give a unit for every two replies (1, 0 or -1), a rating one for each reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from upslope.preferences.agreement import Alpha, Numbers, alpha, with_rest
from upslope.preferences.asked import Answer, Candidate


@dataclass(frozen=True)
class Agreement:
    """Of comparisons (ordinal alpha) or of ratings (interval alpha); ``by``: each annotator's
    agreement with the rest, NaN where they share nothing."""

    of: str
    alpha: Alpha
    by: dict[str, float]


def agreements(answers: Sequence[Answer], seed: int = 0) -> Iterator[Agreement]:
    """Of comparisons and of ratings, where two annotators answered the same."""
    compared = ((a, unit) for a in answers if a.question.kind != "rating" for unit in signs(a))
    rated = ((a, unit) for a in answers if a.question.kind == "rating" for unit in ratings(a))
    for of, metric, found in (
        ("comparisons", "ordinal", compared),
        ("ratings", "interval", rated),
    ):
        names, values = table(found)
        seen = alpha(values, metric, seed) if names else None  # type: ignore[arg-type]
        if seen is not None:
            rest = with_rest(values, metric)  # type: ignore[arg-type]
            yield Agreement(of, seen, dict(zip(names, rest, strict=True)))


def signs(answer: Answer) -> Iterator[tuple[tuple[int, ...], float]]:
    """1 where the first of two candidates is better, -1 where the second is, 0 for a tie."""
    number, values = answer.question.number, answer.values
    for one, other in combinations(range(len(values)), 2):
        yield (number, one, other), float(np.sign(values[one] - values[other]))


def ratings(answer: Answer) -> Iterator[tuple[tuple[int, ...], float]]:
    """What each candidate was given."""
    for place, value in enumerate(answer.values):
        yield (answer.question.number, place), value


def won(answer: Answer) -> Iterator[tuple[Candidate, Candidate, float]]:
    """Every two candidates of which one is better, that one first, and by how much."""
    both = zip(answer.question.candidates, answer.values, strict=False)
    for (one, a), (other, b) in combinations(both, 2):
        if a != b:
            yield (one, other, a - b) if a > b else (other, one, b - a)


def table(
    given: Iterable[tuple[Answer, tuple[tuple[int, ...], float]]],
) -> tuple[list[str], Numbers]:
    """Annotators, and what each said of every unit; NaN where they said nothing."""
    found = {(answer.said.annotator, unit): value for answer, (unit, value) in given}
    names, units = sorted({who for who, _ in found}), sorted({unit for _, unit in found})
    values = np.full((len(names), len(units)), np.nan)
    rows, columns = ({name: i for i, name in enumerate(k)} for k in (names, units))
    for (who, unit), value in found.items():
        values[rows[who], columns[unit]] = value  # type: ignore[index]
    return names, values
