"""A simulated annotator at work: it answers a store's questions as an env's gold reward has them,
through the noise of ``annotators``.

For trying out what people will do; whatever it says bears its name and settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import get_args

from upslope.preferences.annotators import Annotator
from upslope.preferences.asked import Question, Said
from upslope.preferences.gathered import gold_of
from upslope.preferences.pair import dialogue
from upslope.preferences.store import Store
from upslope.types import Env, Problem, Split, UserError

ASIDE = 64  # questions graded between two transactions


@dataclass(frozen=True)
class Annotated:
    """How many were answered and skipped, and how many could not be graded."""

    answered: int
    skipped: int
    invalid: int

    def lines(self) -> Iterator[str]:
        """In sentences."""
        yield f"{self.answered:,} answered, {self.skipped:,} skipped"
        if self.invalid:
            yield f"{self.invalid:,} left out: the env could not grade a reply"


def annotate(store: Store, env: Env, by: Annotator, most: int = 0) -> Annotated:
    """Have the annotator answer what is left for it, ``most`` at most where that is not 0.

    UserError where it has no name, or a question is not one of the env's.
    """
    if not by.name.strip():
        raise UserError("an annotator needs a name: give --annotator")
    known = {_key(p): p for split in get_args(Split) for p in env.problems(split)}
    left = [*islice(store.left(by.name), most or None)]
    for one in left:
        if _key(one.problem) not in known:
            raise UserError(
                f"question {one.number} of {store.path} is about {one.problem.id!r}, which "
                f"{type(env).__name__} does not know: name the env whose problems were asked"
            )
    counts = [0, 0, 0]
    for first in range(0, len(left), ASIDE):
        given = [*_said(env, known, by, left[first : first + ASIDE])]
        answered = [(number, said) for number, said in given if said is not None]
        counts[2] += len(given) - len(answered)
        counts[1] += sum(not said.values for _, said in answered)
        counts[0] += store.answer_all(answered)
    return Annotated(counts[0] - counts[1], counts[1], counts[2])


def _said(
    env: Env, known: dict[str, Problem], by: Annotator, questions: list[Question]
) -> Iterator[tuple[int, Said | None]]:
    """What is said of each; None where a reply could not be graded."""
    about = {name: value for name, value in asdict(by).items() if value and name != "name"}
    for one in questions:
        texts = [candidate.text for candidate in one.candidates]
        rewards = asyncio.run(gold_of(env, known[_key(one.problem)], texts))
        if not all(reward.valid for reward in rewards):
            yield one.number, None
            continue
        worth = [reward.total for reward in rewards]
        values = (
            by.rates((one.key,), texts, worth, one.low, one.high)
            if one.kind == "rating"
            else by.compares((one.key,), texts, worth)
        )
        yield one.number, Said(by.name, tuple(values), "", 0.0, {"simulated": about})


def _key(problem: Problem) -> str:
    """What was asked, whether as a prompt or as a message that holds one."""
    return repr([(m["role"], m["content"]) for m in dialogue(problem, "")[:-1]])
