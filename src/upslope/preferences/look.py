"""A store in words: how much it holds, who answered, how far they agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from upslope.preferences.answered import agreements
from upslope.preferences.asked import Answer, kind_of
from upslope.preferences.formats import when
from upslope.preferences.pair import Selection, Votes
from upslope.preferences.store import Store
from upslope.types import UserError

WIDTH = 60  # characters of a reply that are shown


def lines(store: Store, last: int = 0) -> Iterator[str]:
    """Counts, annotators with their agreement, alphas with intervals; and some answers."""
    seen, answers = store.counts(), [*store.answers()]
    asked = ", ".join(f"{count:,} {kind}s" for kind, count in seen.questions.items()) or "nothing"
    yield f"{store.path}: {seen.problems:,} problems, {seen.replies:,} replies"
    yield f"asked: {asked}; {seen.open:,} want more answers"
    yield (
        f"answers: {seen.answers:,}, of them {seen.ties:,} ties and {seen.skips:,} skips; "
        f"{seen.undone:,} were undone"
    )
    found = [*agreements(answers)]
    for name, count in seen.by.items():
        rest = [(one.of, one.by.get(name, math.nan)) for one in found]
        told = [f"{value:.3f} on {of}" for of, value in rest if not math.isnan(value)]
        agrees = f", agrees with the rest {' and '.join(told)}" if told else ""
        yield f"  {name}: {count:,}{agrees}"
    for one in found:
        value = one.alpha
        yield (
            f"agreement on {one.of}: alpha {value.alpha.mean:.3f} ({value.alpha.low:.3f} to "
            f"{value.alpha.high:.3f}), {value.units:,} units with {value.values:,} values"
        )
    if not found:
        yield "agreement: nobody has answered what another one did, or all said the same"
    for answer in sorted(answers, key=lambda one: one.said.at)[-last:] if last else ():
        yield from shown(answer)


def shown(answer: Answer) -> Iterator[str]:
    """One answer: who, when, why, and what of each reply."""
    asked, said = answer.question, answer.said
    why = f": {plain(said.why)}" if said.why else ""
    yield f"question {asked.number} ({asked.kind}), {said.annotator}, {when(said.at)}{why}"
    values = said.values or [None] * len(asked.candidates)
    for one, value in zip(asked.candidates, values, strict=True):
        yield f"  {'skipped' if value is None else f'{value:g}'}: {plain(one.text)[:WIDTH]!r}"


def plain(text: str) -> str:
    """Text that cannot move a terminal's cursor or change its colours."""
    kept = (c if c.isprintable() or c == "\n" else " " if c == "\t" else "\ufffd" for c in text)
    return "".join(kept)


def selected(annotators: Sequence[str], kinds: Sequence[str], votes: str) -> Selection:
    """A selection from the command line; UserError for a word that is none."""
    ways: Any = get_args(Votes)
    if votes not in ways:
        raise UserError(f"--votes is one of {', '.join(ways)}, not {votes!r}")
    return Selection(tuple(annotators), tuple(map(kind_of, kinds)), ways[ways.index(votes)])
