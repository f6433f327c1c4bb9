"""What a play over a workbook earned: the answer, the cells that it rests on, knowing when to pass.

An answer is a value, or values between bars, then perhaps ``@`` and cells: ``42 @ Sales!C3:C9``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from upslope.rewards.cells import overlap
from upslope.rewards.denotation import agrees
from upslope.tables.bench import cells_of, seen_cells
from upslope.tables.book import Book
from upslope.tables.references import Area, areas_of
from upslope.types import Reward

PASSED = frozenset(("unknown", "?", "n/a", "none", "not answerable", "unanswerable"))
ASKED = (
    "Answer the question from the workbook alone, which you read with tools. Give the value as the "
    "workbook has it, several parted by |, then @ and the cells that it rests on, as in "
    "42 @ Sales!C3:C9. Answer unknown where the workbook does not say."
)
RELATIVE = 1e-3
SHOWING = ("read_range", "head", "r")  # the tools that show cells
LONGEST = 2000


@dataclass(frozen=True)
class Scoring:
    """``region``: what naming the right cells earns at most. ``turn``: what each turn of a right
    answer costs. ``passing``: what passing earns where the workbook says. ``relative``: how far a
    number may be off, as a share of it.
    """

    region: float = 0.2
    turn: float = 0.01
    passing: float = -1.0
    relative: float = RELATIVE

    def reward(
        self,
        facts: Mapping[str, Any],
        gold: Sequence[str],
        cells: AbstractSet[str],
        book: Book,
    ) -> Reward:
        """1 for a right answer, or for passing where there is no ``gold``; parts in metrics.md."""
        final, calls = facts.get("final"), facts.get("calls", ())
        value, areas = parted(final or "")
        # Both readings count: a gold value may have such a sign in it, or be a word for passing.
        said = bool(gold) and any(agrees(v, gold, self.relative) for v in {value, final or ""})
        passed = not said and value.casefold().removesuffix(".") in PASSED
        answered = final is not None and not passed
        right = said or (passed and not gold)
        named = cells_of(areas, book) if areas else _seen(calls, book)
        f1, recall = overlap(named, cells) if cells else (0.0, 0.0)
        total = float(right) + (self.region * f1 if answered else 0.0) + facts.get("penalty", 0.0)
        if right:
            total -= self.turn * facts["turns"]
        elif passed:
            total += self.passing
        parts = {
            "correct": float(right),
            "region_f1": f1,
            "region_recall": recall,
            "passed": float(passed),
            "peeked": float(_peeked(calls, book)),
        }
        costs = {"calls": float(len(calls))}
        return Reward(total, parts, costs, answer=value if answered else "")


def parted(final: str) -> tuple[str, list[Area]]:
    """An answer's value, and the cells that it names."""
    value, sign, cited = final[:LONGEST].rpartition("@")
    if sign:
        try:
            return value.strip(), areas_of(cited)
        except ValueError:
            pass  # a value with such a sign in it
    return final.strip(), []


def _seen(calls: Sequence[Mapping[str, Any]], book: Book) -> set[str]:
    out: set[str] = set()
    for call in calls:
        if call["name"] in SHOWING and not call["error"]:
            out |= seen_cells(call["name"], call["arguments"], book)
    return out


def _peeked(calls: Sequence[Mapping[str, Any]], book: Book) -> bool:
    """Whether a hidden sheet was asked for by name."""
    hidden = [sheet.name.casefold() for sheet in book.sheets.values() if sheet.hidden]
    said = [str(value).casefold() for call in calls for value in call["arguments"].values()]
    return any(name in text for name in hidden for text in said)
