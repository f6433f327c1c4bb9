"""Whether an answer says the same as a gold one: by WikiTableQuestions' rules, or to a tolerance.

An answer is a set of texts, numbers and dates (arXiv:1508.00305): all of one side must be matched
by the other, in any order. The rules are those of that data set's evaluator, version 1.0.2.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from upslope.types import UserError

NEAR = 1e-6  # how far apart two numbers may be that are the same
LONGEST, MOST = 2_000, 200  # characters and items of an answer that is looked at
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
FIGURE = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", re.ASCII)
CITED = re.compile(r"(?:(?<!^)\[[^\]]*\]|\[\d+\]|[•♦†‡*#+])*$")
DETAILS = re.compile(r"(?<!^)(?: \([^)]*\))*$")
QUOTED = re.compile(r'^"([^"]*)"$')
SIGNS = (("[‘’´`]", "'"), ("[“”]", '"'), ("[‐‑‒–—−]", "-"))
UNKNOWN = -1  # a part of a date that is not said


@dataclass(frozen=True)
class Item:
    """One value: its normal text, and the number or the date (year, month, day) that it is."""

    text: str
    number: float | None = None
    day: tuple[int, int, int] | None = None

    def matches(self, other: Item, relative: float = 0.0) -> bool:
        """Whether both say the same; of numbers, to ``relative`` where that is wider."""
        if self.text == other.text:
            return True
        if self.number is not None and other.number is not None:
            bound = max(NEAR, relative * abs(self.number))
            return abs(self.number - other.number) <= bound * (1 + 1e-9)
        return self.day is not None and self.day == other.day


def normal(text: str) -> str:
    """A text without accents, citations, trailing details, outer quotation marks and case."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    for signs, sign in SIGNS:
        plain = re.sub(signs, sign, plain)
    before = ""
    while before != plain:
        before = plain
        plain = CITED.sub("", plain.strip())
        plain = DETAILS.sub("", plain.strip())
        plain = QUOTED.sub(r"\1", plain.strip())
    plain = plain.removesuffix(".")
    return re.sub(r"\s+", " ", plain).lower().strip()


def item(text: str, separated: bool = False) -> Item:
    """What a text says. ``separated``: 7,169 is a number, as in a gold answer."""
    said = text.strip()
    plain = said.replace(",", "") if separated and THOUSANDS.fullmatch(said) else said
    if FIGURE.fullmatch(plain) and math.isfinite(float(plain)):
        return Item(normal(text), float(plain))
    day = _day(plain)
    if day is None:
        return Item(normal(text))
    if day[1] == day[2] == UNKNOWN:
        return Item(normal(text), float(day[0]))
    return Item(normal(text), None, day)


def items(texts: Sequence[str], separated: bool = False) -> list[Item]:
    """What texts say, each thing once."""
    return list(dict.fromkeys(item(text, separated) for text in texts))


def split(answer: str) -> list[str]:
    """The parts of an answer between bars; a bar of a value's own is written ``\\p``."""
    parts = [part.replace("\\p", "|").strip() for part in answer[:LONGEST].split("|")]
    return parts[:MOST]


def joined(texts: Sequence[str]) -> str:
    """Values as one answer, which ``split`` parts again."""
    return " | ".join(text.replace("|", "\\p").strip() for text in texts)


def agrees(answer: str, gold: Sequence[str], relative: float = 0.0) -> bool:
    """Whether an answer has the gold values, all of them and no others."""
    if len(answer) > LONGEST:
        return False
    said, wanted = items(split(answer), bool(relative)), items(gold, True)
    if len(said) != len(wanted):
        return False
    return all(any(want.matches(one, relative) for one in said) for want in wanted)


def checked(gold: Sequence[str], where: str) -> None:
    """UserError where gold values are none that an answer could say."""
    if not gold or not all(normal(text) for text in gold):
        raise UserError(
            f"{where}: the gold answer {list(gold)} says nothing: mend or remove the row"
        )


def _day(text: str) -> tuple[int, int, int] | None:
    """A date as 2024-03-01, any part of which may be xx."""
    parts = text.lower().split("-")
    if len(parts) != 3:
        return None
    said = []
    for part, unsaid in zip(parts, (("xx", "xxxx"), ("xx",), ("xx",)), strict=True):
        if part in unsaid:
            said.append(UNKNOWN)
        elif part.isascii() and part.isdigit() and len(part) <= 4:
            said.append(int(part))
        else:
            return None
    year, month, day = said
    if year == month == day == UNKNOWN:
        return None
    if not (month == UNKNOWN or 1 <= month <= 12) or not (day == UNKNOWN or 1 <= day <= 31):
        return None
    return year, month, day
