"""Questions in a terminal, or from a pipe: one line answers one, and each answer is kept at once.

A labelling page calls the same methods of the store.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from upslope.preferences.asked import Question
from upslope.preferences.look import plain
from upslope.preferences.store import Store
from upslope.types import UserError

HOW = {
    "pair": "1 or 2 is better, = for a tie",
    "ranking": "all numbers, best first: 2 1 3, ties as 2=1 3",
    "rating": "a number from {low:g} to {high:g} for each reply, in their order: 4 2",
}
REST = "; s skips, u undoes, q ends; words after # say why"


def ask(
    store: Store,
    annotator: str,
    say: Callable[[str], None] = print,
    line: Callable[[], str] | None = None,
    *,
    patient: bool | None = None,
) -> None:
    """Ask until nothing is left, ``q`` or the end of the lines; what cannot be understood is asked
    again where somebody sits there (``patient``), and in a pipe UserError."""
    line = line or sys.stdin.readline
    patient = sys.stdin.isatty() if patient is None else patient
    done = 0
    question = store.next_question(annotator)
    while question is not None:
        show(question, say, f"{store.progress(annotator).left} left")
        given = line()
        words, _, why = given.partition("#")
        word = words.strip().lower()
        if not given or word == "q":
            break
        if word == "u":
            before = store.undo(annotator)
            say("undone" if before else "there is no answer of yours to undo")
            done -= before is not None
            question = before or question
            continue
        try:
            store.answer(question.number, annotator, understood(question, word), why.strip())
        except UserError as error:
            if not patient:
                raise UserError(f"{error}; {max(done, 0)} answers before it are kept") from None
            say(str(error))
            continue
        done += 1
        question = store.next_question(annotator)
    seen = store.progress(annotator)
    say(f"{annotator}: {seen.answered} answered, {seen.skipped} skipped, {seen.left} left")


def show(question: Question, say: Callable[[str], None], left: str) -> None:
    """A question: what was asked, every reply with its number, and how to answer."""
    say(f"--- question {question.number}, {question.kind}, {left}")
    for message in question.problem.messages:
        say(f"{message['role']}: {plain(str(message['content']))}")
    if question.problem.prompt:
        say(plain(question.problem.prompt))
    for number, one in enumerate(question.candidates, 1):
        say(f"[{number}] {plain(one.text)}")
    say(HOW[question.kind].format(low=question.low, high=question.high) + REST)


def understood(question: Question, word: str) -> Sequence[float]:
    """What a line says of each reply, higher for better; UserError where it says nothing."""
    count = len(question.candidates)
    if word == "s":
        return ()
    if question.kind == "pair" and word in ("1", "2", "="):
        return {"1": (1.0, 0.0), "2": (0.0, 1.0), "=": (0.0, 0.0)}[word]
    if question.kind == "ranking":
        groups = [group.split("=") for group in re.sub(r"\s*=\s*", "=", word).split()]
        places = {name: -float(i) for i, group in enumerate(groups) for name in group}
        if sorted(name for group in groups for name in group) == sorted(
            str(i + 1) for i in range(count)
        ):
            return [places[str(i + 1)] + count - 1 for i in range(count)]
    if question.kind == "rating" and re.fullmatch(r"[-+]?[\d.]+(\s+[-+]?[\d.]+)*", word):
        try:
            given = [float(one) for one in word.split()]
        except ValueError:
            given = []
        if len(given) == count:
            return given
    how = HOW[question.kind].format(low=question.low, high=question.high)
    raise UserError(f"question {question.number}: {word!r} is no answer: {how}")
