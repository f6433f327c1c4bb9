"""How a question to a corpus is asked and played, whatever the corpus: for the envs that do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from upslope.retrieval.index import Searches
from upslope.retrieval.looking import OFFERED, Looking, Trail, tools
from upslope.tools import Call, Form, Said
from upslope.tools.play import FORMS, Limits, playing, told
from upslope.types import Episode, Problem

STOP = ("\n",)
ASKED = (
    "Answer the question from the passages that the tools find. Give the shortest answer that is "
    "right, and after it the ids of the passages that show it, each in brackets, as in: Paris [a3]"
)
RANKED = (
    "Find the passages that matter to the question. Answer with their ids, each in brackets and "
    "the best first, as in: [a3] [b1]"
)


def as_problem(
    name: str,
    question: str,
    answers: Sequence[str],
    evidence: Mapping[str, float],
    solution: str,
    form: str,
    limits: Limits,
) -> Problem:
    """A question as a problem: a chat with the tools, or one line where the form is terse."""
    info: dict[str, Any] = {
        "question": question,
        "answers": tuple(answers),
        "evidence": dict(evidence),
    }
    answer = answers[0] if answers else ""
    if form == "terse":
        return Problem(name, (), f"{question}\n", STOP, answer, solution, info)
    how = told(OFFERED, FORMS[form], limits)
    text = f"{ASKED if answers else RANKED}\n\n{how}\n\nQuestion: {question}"
    message = {"role": "user", "content": text}
    return Problem(name, (message,), "", (), answer, solution, info)


@asynccontextmanager
async def looking(
    index: Searches, form: Form, limits: Limits, results: int, excerpt: int, problem: Problem
) -> AsyncIterator[Episode]:
    """A play with both tools over an index, whose facts have what it saw."""
    trail = Trail()
    async with playing(tools(index, trail, results, excerpt), form, limits, problem) as play:
        yield Looking(play, trail)


def replies(form: Form, calls: Sequence[Call], final: str) -> list[str]:
    """What a policy says that makes these calls, one a turn, and then answers."""
    return [*(form.write(Said((call,))) for call in calls), form.write(Said(final=final))]


def cited(answer: str, names: Sequence[str]) -> str:
    """A final answer that cites ids."""
    return " ".join([answer, *(f"[{name}]" for name in names)]).strip()
