"""Mathematical answers in running text: which part of a reply is the answer, and is it right.

What a reply answers is, in this order, its last ``\\boxed{...}``, what follows its last ``####``,
or what follows its last "answer is"; to a question whose answers are numbers (GSM8K's form), else
its last number. Equal numbers and equal texts are compared here; all else by math-verify, in a
worker process, because nothing bounds what sympy computes for ``10^{10^{10}}``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

from upslope.rewards.workers import Workers
from upslope.types import Reward

Form = Literal["gsm8k", "math"]
LONGEST = 400
BOXES = ("\\boxed", "\\fbox")
NUMBER = re.compile(r"(?:(?<![\d)])-)?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)", re.ASCII)
PLAIN = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d+)?", re.ASCII)
MINUS = str.maketrans({"\u2212": "-", "\ufe63": "-", "\uff0d": "-"})
# What makes a number a part of something else, before it and after it: two answers, or a formula.
JOIN = r"(?:[-+*/^|;,~]|\\(?:times|cdot|div|pm)|or|and|to)\s*"
JOINED = rf"(?:{JOIN}){{1,2}}(?:maybe|perhaps)?[\s$(]*"
BEFORE = re.compile(rf"[\d)}}]\s*{JOINED}$|\\(?:sqrt|d?frac|tfrac|log|ln)[^\s]*$|[\^_][({{]?$")
AFTER = re.compile(rf"e[-+]?\d|\s*{JOINED}[-+]?[\d.\\]", re.IGNORECASE)
HEDGES = re.compile(
    r"\b(?:or|and|maybe|perhaps|either|between)\b|[|;,]|^(?:(?!\\text).)*/\s*(?=\\text)"
)
THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\?!?)(?=\d{3}(?!\d))")
SAID = re.compile(r"answer is", re.IGNORECASE)
SPACES = re.compile(r"\\[!,;: ]|\\left(?![a-z])|\\right(?![a-z])|~|(?<!\d)\s|\s(?!\d)|\\\$|\$")
TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm)\{([^{}]*)\}")
WORD = re.compile(r"(?<![\\a-z])[a-z]{4}", re.IGNORECASE)
WORDS = re.compile(r"\(?[^\W\d_]+(?:[ '-][^\W\d_]+)*\)?")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply answers, "" for nothing, and whether it was ``marked`` as the answer."""

    text: str
    marked: bool


async def math_answers(texts: Sequence[str], gold: str, form: Form) -> list[Reward]:
    """1 for an answer that equals ``gold``, for each reply of a group.

    Parts: ``correct``, and ``format``: whether the answer was marked. Invalid, with the reason,
    where ``gold`` cannot be compared with or the comparison did not end.
    """
    if wrong := fault(gold, form):
        return [Reward(0.0, valid=False, reason=f"the gold answer {wrong}")] * len(texts)
    answers = [extract(text, form) for text in texts]
    known = {a.text: simply_equal(gold, a.text) for a in answers}
    hard = [text for text, equal in known.items() if equal is None]
    if hard:
        outcomes = await workers().grade([(gold, text) for text in hard])
        failed = {t: o.reason for t, o in zip(hard, outcomes, strict=True) if o.reason}
        known |= {t: bool(o.value) for t, o in zip(hard, outcomes, strict=True)}
    else:
        failed = {}
    return [_reward(answer, bool(known[answer.text]), failed) for answer in answers]


def _reward(answer: Answer, equal: bool, failed: dict[str, str]) -> Reward:
    said = canonical(answer.text)
    if answer.text in failed:
        return Reward(0.0, valid=False, reason=failed[answer.text], answer=said)
    correct = float(equal)
    return Reward(correct, {"correct": correct, "format": float(answer.marked)}, answer=said)


def extract(text: str, form: Form) -> Answer:
    """The answer in a reply, as the module's docstring says; 400 characters at most."""
    held = boxed(text)
    if held is not None:
        return _short(held, True)
    text = text.translate(MINUS)
    _, hashes, tail = text.rpartition("####")
    if not hashes:
        places = [found.end() for found in SAID.finditer(text)]
        tail = text[places[-1] :] if places else ""
    if said := _first_of(tail.lstrip(" :*\n").partition("\n")[0], form):
        return _short(said, True)
    numbers = [*NUMBER.finditer(text[-LONGEST:])] if form == "gsm8k" else []
    return _short(_alone(numbers[-1]) if numbers else "", False)


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}``; None where there is none or it does not close."""
    start = max(text.rfind(box + "{") for box in BOXES)
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for place in range(start, min(len(text), start + LONGEST + 1)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return None


def fault(gold: str, form: Form) -> str:
    """Why nothing can be compared with a gold answer, "" where something can."""
    if not gold.strip():
        return "is empty"
    if form == "gsm8k" and number(gold) is None:
        return f"{gold!r} is no number"
    if not any(c.isalnum() for c in gold):
        return f"{gold!r} has neither a letter nor a digit"
    if len(gold) > LONGEST:
        return f"has {len(gold)} characters, and no answer may have more than {LONGEST}"
    if gold.count("{") != gold.count("}"):
        return f"{gold!r} has unequal braces"
    return ""


def simply_equal(gold: str, answer: str) -> bool | None:
    """Whether they are equal, where that needs no algebra; None where it does."""
    if not answer or tidy(gold) == tidy(answer):
        return bool(answer)
    if hedges(answer) - hedges(gold):
        return False  # one of two answers is right: algebra may take either
    # four bare letters are a word, fewer may be a product: algebra takes east and seat for equal
    if (TEXT.search(gold) or WORD.search(gold)) and (name := bare_words(gold)):
        return name == bare_words(answer)
    one, other = number(gold), number(answer)
    return None if one is None or other is None else one == other


def hedges(text: str) -> set[str]:
    """What joins several answers, as far as there is any of it."""
    return {*HEDGES.findall(THOUSANDS.sub("", text).casefold())}


def canonical(answer: str) -> str:
    """One way to write an answer, so that votes for equal numbers count together."""
    value = number(answer)
    return str(value) if value is not None else bare_words(answer) or tidy(answer)


def number(text: str) -> Fraction | None:
    """The value of a plain decimal number, also with a dollar sign or thousands separated."""
    bare = tidy(text).removesuffix(".")
    if not any(c.isdigit() for c in bare) or not bare.isascii() or not PLAIN.fullmatch(bare):
        return None
    return Fraction(bare.replace(",", ""))


def tidy(text: str) -> str:
    """The text without spaces and what TeX has only for looks."""
    return SPACES.sub("", text).replace("dfrac", "frac").replace("tfrac", "frac")


def bare_words(text: str) -> str:
    """A name or a choice without its dress, such as ``east`` or ``c``; "" for anything else."""
    bare = TEXT.sub(r"\1", text).strip(" $.")
    return bare.strip("()").casefold() if WORDS.fullmatch(bare) else ""


def algebra(gold: str, answer: str) -> bool:
    """Whether they are equal by math-verify, without its own timeouts; runs in a worker."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configs = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    sides = [
        parse(f"\\boxed{{{text}}}", configs, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    ]
    return all(sides) and bool(verify(*sides, timeout_seconds=None))


@cache
def workers() -> Workers:
    """The processes that all mathematical answers of this one are graded in."""
    return Workers(f"{__name__}:algebra", ("\\frac{1}{2}", "0.5"))


def _first_of(line: str, form: Form) -> str:
    """The answer at the head of a line that may go on: its first formula, number or sentence."""
    if form == "gsm8k":
        found = NUMBER.search(line.rpartition("=")[2]) if len(line) <= LONGEST else None
        return _alone(found) if found else ""
    formula = re.match(r"\$+([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", line)
    if formula:
        return next(group for group in formula.groups() if group)
    return line.partition(". ")[0].strip().rstrip(".*")


def _alone(found: re.Match[str]) -> str:
    """A number; "" where it is one of two, or a part of a formula that nobody has worked out."""
    before, after = found.string[: found.start()], found.string[found.end() :]
    return "" if BEFORE.search(before[-LONGEST:]) or AFTER.match(after) else found[0]


def _short(text: str, marked: bool) -> Answer:
    return Answer(text.strip(), marked) if len(text) <= LONGEST else Answer("", False)
