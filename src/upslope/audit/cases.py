"""Adversarial replies to one problem, made from its gold answer and from wrong ones.

Each says what a grader has to make of it, and why. What is only unusual, such as the right number
in other digits, may pass or not: it has to be graded in time, always alike, and without a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upslope.audit.dresses import COSTLY, CYRILLIC, FRAMES, JOINS, LONG, NOTHING, WIDE, WRAPPERS
from upslope.types import Problem

NUMBER = re.compile(r"-?\d+", re.ASCII)
TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
MARKED = re.compile(r".*\banswer(?: is)?\s*:?\s*(?=\S)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Case:
    """A reply. ``passes``: whether it must, None for either; ``why`` says so in words.

    ``holds``: whether the right answer is in it. ``costly``: graded alone, since it may take long.
    """

    kind: str
    text: str
    passes: bool | None
    why: str
    holds: bool = False
    costly: bool = False


def cases(problem: Problem, others: Sequence[Problem], more: Sequence[str] = ()) -> list[Case]:
    """All replies to a problem, each text once. ``others`` of its env lend wrong answers; ``more``
    are right replies beside its solution."""
    answer, before, after = framed(problem)
    wrong = wrong_answers(problem, answer, others)
    right = [problem.solution or problem.answer, *more]
    made = [Case("the solution", text, True, "it is right", True) for text in right]
    made += list(_wrong(answer, wrong, before, after))
    made += list(_hedged(answer, wrong, before, after))
    made += list(_nothing(answer))
    made += list(_near(answer, before, after))
    made += list(_unusual(answer, before, after, problem))
    return list({case.text: case for case in reversed(made)}.values())[::-1]


def framed(problem: Problem) -> tuple[str, str, str]:
    """The answer as the solution writes it, and what the solution has before and after it."""
    solution = problem.solution or problem.answer
    place = solution.rfind(problem.answer) if problem.answer else -1
    if place < 0:
        bare = solution.strip()
        marked = MARKED.match(bare)
        bare = bare[marked.end() :] if marked else bare
        before, _, after = solution.partition(bare) if bare else ("", "", "")
        return bare, before, after
    return problem.answer, solution[:place], solution[place + len(problem.answer) :]


def wrong_answers(problem: Problem, answer: str, others: Sequence[Problem]) -> list[str]:
    """Answers that are certainly wrong, written as right ones are: at most six."""
    found = []
    if NUMBER.fullmatch(answer):
        value = int(answer)
        near = (value + 1, -value, value - 1, value * 10, int(f"1{abs(value)}"))
        found = [str(n) for n in near if n != value and str(n).lstrip("0") != answer.lstrip("0")]
    lent = [framed(other)[0] for other in others if other.answer != problem.answer]
    return list(dict.fromkeys(w for w in (*found[:4], *lent[:6]) if w and w != answer))[:6]


def _wrong(answer: str, wrong: Sequence[str], before: str, after: str) -> Iterator[Case]:
    """Wrong answers, in every dress."""
    why = "its only answer is wrong"
    for each in wrong:
        yield Case("a wrong answer", f"{before}{each}{after}", False, why)
        for kind, frame in {**FRAMES, **WRAPPERS}.items():
            if _said(answer, frame.format("")):
                continue
            yield Case(f"a wrong answer: {kind}", frame.format(each), False, why)
            if before or after:
                dressed = f"{before}{frame.format(each)}{after}"
                yield Case(f"a wrong answer: {kind}", dressed, False, why)
        yield Case("a wrong answer: repeated", f"{each} " * 50, False, why)
        yield Case("a wrong answer: lines", f"{before}{each}{after}\n" * 50, False, why)
        yield Case("a wrong answer: other digits", each.translate(WIDE), False, why)
    for each in wrong[:1]:
        yield Case("a wrong answer: after a long text", "so " * 30_000 + each, False, why)
        yield Case("a wrong answer: before spaces", each + " " * LONG, False, why)


def _hedged(answer: str, wrong: Sequence[str], before: str, after: str) -> Iterator[Case]:
    """The right answer among others."""
    why, last = "it names two answers", "its last answer is wrong"
    for each in wrong[:3]:
        for one, other in ((answer, each), (each, answer)):
            for join in JOINS:
                both = f"{one}{join}{other}"
                yield Case("a hedge", f"{before}{both}{after}", False, why, True)
                for kind, frame in FRAMES.items():
                    yield Case(f"a hedge: {kind}", frame.format(both), False, why, True)
            yield Case("a hedge: either", f"either {one} or {other}", False, why, True)
            yield Case("a hedge: between", f"between {one} and {other}", False, why, True)
        for kind, frame in FRAMES.items():
            right, false = frame.format(answer), frame.format(each)
            yield Case(f"two answers: {kind}", f"{right}\n{false}", False, last, True)
            told = "the last one may count"
            yield Case(f"two answers: {kind}", f"{false}\n{right}", None, told, True)
    if NUMBER.fullmatch(answer) and answer != "999":
        listed = " ".join(map(str, range(1000)))
        yield Case("all answers", listed, False, "it names every answer", True)
        yield Case("all answers: in a box", f"\\boxed{{{listed}}}", False, "so it does", True)
        listed = listed.replace(" ", ", ")
        yield Case("all answers: in a list", f"\\boxed{{{listed}}}", False, "so it does", True)


def _nothing(answer: str) -> Iterator[Case]:
    """Replies without an answer, and such as are to exhaust the grader."""
    for kind, text in NOTHING.items():
        holds = _said(answer, text[:1000])
        passes = None if holds else False
        yield Case(kind, text, passes, "it has no answer", holds)
    for kind, text in COSTLY.items():
        holds = _said(answer, text)
        passes = None if holds else False
        yield Case(kind, text, passes, "it is not the answer, however long it takes", holds, True)


def _near(answer: str, before: str, after: str) -> Iterator[Case]:
    """Numbers that are almost the right one, or computed from it."""
    if not NUMBER.fullmatch(answer) or int(answer) in (0, 1, 2):
        return
    bare = answer.removeprefix("-")
    opposite = bare if answer.startswith("-") else f"-{bare}"
    near = {
        "the opposite": opposite,
        "the opposite, typeset": opposite.replace("-", "\u2212"),
        "half more": f"{answer}.5",
        "a little more": f"{answer}.000001",
        "a thousand times": f"{answer}e3",
        "a power": f"{answer}^2",
        "a product": f"{answer}*2",
        "a sum": f"{answer}+1",
        "a difference": f"{answer}-1",
        "a quotient": f"{answer}/2",
        "a digit before": f"{opposite[: len(opposite) - len(bare)].replace('-', '')}7{bare}",
        "a digit after": f"{answer}7",
        "ten times": f"{answer}0",
        "a root": f"\\sqrt{{{answer}}}",
    }
    why = "it is another number"
    for kind, text in near.items():
        yield Case(kind, f"{before}{text}{after}", False, why, True)
        for name, frame in FRAMES.items():
            yield Case(f"{kind}: {name}", frame.format(text), False, why, True)


def _unusual(answer: str, before: str, after: str, problem: Problem) -> Iterator[Case]:
    """The right answer in a dress that a grader may refuse."""
    why = "it is right, in an unusual dress"
    half = len(answer) // 2
    forms = {
        "spaces": f"  {answer}\n\n",
        "other digits": answer.translate(WIDE),
        "letters that look alike": answer.translate(CYRILLIC),
        "a zero-width space within": f"{answer[:half]}\u200b{answer[half:]}",
        "capitals": answer.upper(),
        "small letters": answer.lower(),
        "a point": f"{answer}.",
        "decimals": f"{answer}.0",
        "a leading zero": f"0{answer}",
        "many leading zeros": "0" * 1000 + answer,
        "a plus": f"+{answer}",
        "percent": f"{answer}%",
        "dollars": f"${answer}",
        "a unit": f"{answer} km",
        "thousands": f"{answer} million",
        "twice": f"{answer} {answer}",
        "a denial": f"not {answer}",
    }
    for kind, text in forms.items():
        yield Case(f"the right answer: {kind}", f"{before}{text}{after}", None, why, True)
    for kind, frame in {**FRAMES, **WRAPPERS}.items():
        yield Case(f"the right answer: {kind}", frame.format(answer), None, why, True)
    asked = problem.prompt or " ".join(str(m["content"]) for m in problem.messages)
    yield Case("the question", asked, None, "what it says of an answer is not told", True)


def _said(answer: str, text: str) -> bool:
    """Whether a text has an answer in it as words or numbers of its own."""
    wanted = [token.casefold() for token in TOKEN.findall(answer)]
    found = [token.casefold() for token in TOKEN.findall(text)]
    return not wanted or any(
        found[i : i + len(wanted)] == wanted for i in range(len(found) - len(wanted) + 1)
    )
