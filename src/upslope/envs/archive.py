"""Questions of several hops over small procedural worlds: search, open, go on to whom it names.

"What is the town of the boss of Bek?" needs Bek's passage, which names the boss, and then the
boss's. Each question has a world of its own, so that only looking tells.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Literal

from upslope.retrieval.archive import BRIEF, DETAILS, LINKS, Asked, World, asked, world
from upslope.retrieval.asking import as_problem, cited, looking, replies
from upslope.retrieval.index import in_memory
from upslope.rewards.retrieval import Weights, graded
from upslope.seeds import seed_of, split_of
from upslope.tools import Call
from upslope.tools.play import FORMS, Limits
from upslope.types import Episode, Problem, Reward, Split, Trajectory, UserError

TRIES = 50  # draws for each question wanted before there are taken to be no more


@dataclass(frozen=True)
class Archive:
    """Worlds of ``people``, each with ``links`` to others (boss, pal, aunt) and
    ``details`` (town, pet, car).

    ``hops``: how many passages a question leads through. ``form``: "terse" lines for ladder models,
    "react" or "json" in a chat. ``results``: passages that a search lists. ``wrong``: the share of
    demonstrations that stop a hop early and answer for whom they have reached.
    """

    hops: tuple[int, ...] = (2,)
    people: int = 8
    links: int = 2
    details: int = 2
    form: Literal["terse", "react", "json"] = "terse"
    results: int = 2
    k: int = 10
    weights: Weights = field(default_factory=lambda: Weights(1.0, 0.0, 0.0, 0.0, 0.0))
    limits: Limits = field(default_factory=Limits)
    wrong: float = 0.0
    train: int = 1600
    test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        most = min(self.people, (self.limits.turns - 1) // 2)
        if not self.hops or min(self.hops) < 1 or max(self.hops) > most:
            raise UserError(
                f"hops are from 1 to {most}: each takes a person and two turns, so that more of "
                "them need a higher people or limits.turns"
            )
        if not 2 <= self.people <= len(BRIEF) // 2:
            raise UserError(f"people is from 2 to {len(BRIEF) // 2}, got {self.people}")
        if not (1 <= self.links <= len(LINKS) and 1 <= self.details <= len(DETAILS)):
            raise UserError(f"links and details are from 1 to {len(LINKS)}")
        if not 0 <= self.wrong <= 1:
            raise UserError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if min(self.train, self.test, self.results, self.k) < 1:
            raise UserError("train, test, results and k are numbers: set each to at least 1")

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions of this split, of each of the ``hops`` in turn."""
        wanted = self.train if split == "train" else self.test
        draw = random.Random(seed_of(self.seed, "archive", split))
        found: dict[str, Asked] = {}
        for _ in range(TRIES * wanted):
            if len(found) == wanted:
                break
            hops = self.hops[len(found) % len(self.hops)]
            one = asked(hops, self.links, self.details, self.form == "terse", draw)
            if split_of(one.key) == split:
                found.setdefault(one.key, one)
        else:
            raise UserError(
                f"there are only {len(found)} {split} questions with these hops, links and "
                f"details: lower {'train' if split == 'train' else 'test'} or raise one of them"
            )
        return [self._problem(one) for one in found.values()]

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Episode]:
        """Both tools over the question's own world."""
        made, form = self._world(problem.id), FORMS[self.form]
        excerpt = 0 if self.form == "terse" else 60
        with closing(in_memory(made.passages)) as index:
            async with looking(index, form, self.limits, self.results, excerpt, problem) as play:
                yield play

    def plays(self, split: Split) -> Iterator[tuple[Problem, Sequence[str]]]:
        """Each problem with its solution or, for a share ``wrong``, with the slip."""
        for problem in self.problems(split):
            slips = random.Random(seed_of(self.seed, "wrong", problem.id)).random() < self.wrong
            yield problem, self._replies(problem, slips)

    def solved(self, problem: Problem) -> Sequence[str]:
        """Search for each person on the way, open their passage, and answer."""
        return self._replies(problem, False)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """By ``weights``; parts as ``rewards.retrieval`` names them."""
        return [graded(t, self.weights, self.k) for t in trajectories]

    def _world(self, key: str) -> World:
        return world(Asked.of(key), self.people, self.links, self.details, self.form == "terse")

    def _problem(self, one: Asked) -> Problem:
        made = self._world(one.key)
        evidence = {made.passages[place].id: 1.0 for place in made.path}
        text = f"{one.key}?" if self.form == "terse" else one.sentence
        final = self._final(made, len(made.path))
        return as_problem(
            one.key, text, made.answers[-1:], evidence, final, self.form, self.limits
        )

    def _replies(self, problem: Problem, slips: bool) -> Sequence[str]:
        """The play that answers after the last hop, or after the one before."""
        made = self._world(problem.id)
        reached = len(made.path) - slips
        calls = [
            call
            for place in made.path[:reached]
            for call in (
                Call("search", {"query": made.passages[place].title}),
                Call("open", {"id": made.passages[place].id}),
            )
        ]
        return replies(FORMS[self.form], calls, self._final(made, reached))

    def _final(self, made: World, reached: int) -> str:
        """What is asked for of the person reached; with nobody reached, that one's own name."""
        answer = made.answers[reached - 1] if reached else made.passages[made.path[0]].title
        names = [made.passages[place].id for place in made.path[:reached]]
        return cited(answer, names if self.weights.citations else ())
