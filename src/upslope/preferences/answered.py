"""What a store's answers come to: values [annotator unit] for agreement, who beat whom, pairs.

A pair and a ranking give a unit for every two replies (1, 0 or -1), a rating one for each reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from upslope.preferences.agreement import Alpha, Metric, Numbers, alpha, with_rest
from upslope.preferences.asked import Answer, Candidate, asked
from upslope.preferences.pair import ALL, Pair, Selection


class Won(NamedTuple):
    """Of two replies the better one first, and by how much."""

    answer: Answer
    better: Candidate
    worse: Candidate
    ahead: float


@dataclass(frozen=True)
class Agreement:
    """Of comparisons (ordinal alpha) or of ratings (interval alpha); ``by``: each annotator's
    agreement with the rest, NaN where they share nothing."""

    of: str
    alpha: Alpha
    by: dict[str, float]


def pairs_in(answers: Iterable[Answer], which: Selection = ALL) -> Iterator[Pair]:
    """Every two replies of which somebody, or the majority, says that one is better; ``info`` has
    who (``annotator``), what a file or ratings said beside, and of a majority how many ``votes``
    there were and which share ``agreed``."""
    own = (one for one in answers if _takes(which, one))
    if which.votes == "majority":
        yield from _majority(won for one in own for won in wins(one))
        return
    for one in own:
        for won in wins(one):
            yield pair_of_win(won)


def pair_of_win(won: Won) -> Pair:
    """A pair with what is known of it; ratings have a margin."""
    asked_, said = won.answer.question, won.answer.said
    info: dict[str, Any] = {**said.info, "annotator": said.annotator}
    if asked_.kind == "rating":
        info["margin"] = won.ahead
    for side, one in (("chosen", won.better), ("rejected", won.worse)):
        info |= {f"source_{side}": one.source} if one.source else {}
    return Pair(asked_.problem, won.better.text, won.worse.text, info)


def wins(answer: Answer) -> Iterator[Won]:
    """Every two candidates of which one is better."""
    both = zip(answer.question.candidates, answer.values, strict=False)
    for (one, a), (other, b) in combinations(both, 2):
        if a != b:
            yield Won(answer, one, other, a - b) if a > b else Won(answer, other, one, b - a)


def agreements(answers: Sequence[Answer], seed: int = 0) -> Iterator[Agreement]:
    """Of comparisons and of ratings, where two annotators answered the same."""
    compared = [(a, unit) for a in answers if a.question.kind != "rating" for unit in signs(a)]
    rated = [(a, unit) for a in answers if a.question.kind == "rating" for unit in ratings(a)]
    kinds: tuple[tuple[str, Metric, Any], ...] = (
        ("comparisons", "ordinal", compared),
        ("ratings", "interval", rated),
    )
    for of, metric, found in kinds:
        names, units, values = table(found)
        seen = alpha(values, metric, seed, of=[unit[0] for unit in units]) if names else None
        if seen is not None:
            rest = with_rest(values, metric)
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


def table(
    given: Iterable[tuple[Answer, tuple[tuple[int, ...], float]]],
) -> tuple[list[str], list[tuple[int, ...]], Numbers]:
    """Annotators, units, and what each said of every unit; NaN where they said nothing."""
    found = {(answer.said.annotator, unit): value for answer, (unit, value) in given}
    names, units = sorted({who for who, _ in found}), sorted({unit for _, unit in found})
    values = np.full((len(names), len(units)), np.nan)
    row = {name: i for i, name in enumerate(names)}
    column = {unit: i for i, unit in enumerate(units)}
    for (who, unit), value in found.items():
        values[row[who], column[unit]] = value
    return names, units, values


def _takes(which: Selection, one: Answer) -> bool:
    """Whether a selection has this answer."""
    by = not which.annotators or one.said.annotator in which.annotators
    return by and (not which.kinds or one.question.kind in which.kinds)


def _majority(given: Iterable[Won]) -> Iterator[Pair]:
    """One pair for every two replies to a problem of which more votes prefer one."""
    heard: dict[tuple[str, frozenset[str]], list[Won]] = {}
    for won in given:
        texts = frozenset((won.better.text, won.worse.text))
        heard.setdefault((asked(won.answer.question.problem), texts), []).append(won)
    for votes in heard.values():
        (text, most), *others = Counter(won.better.text for won in votes).most_common()
        if others and others[0][1] == most:
            continue
        pair = pair_of_win(next(won for won in votes if won.better.text == text))
        info = {**pair.info, "annotator": "majority", "votes": len(votes)}
        info.pop("margin", None)
        rated = [won for won in votes if won.answer.question.kind == "rating"]
        if rated:
            signed = (won.ahead if won.better.text == text else -won.ahead for won in rated)
            margin = sum(signed) / len(rated)
            info |= {"margin": margin} if margin > 0 else {}
        yield pair._replace(info={**info, "agreed": most / len(votes)})
