"""Questions of several hops over small procedural worlds: search, open, go on to whom it names.

"What is the town of the boss of Bek?" needs Bek's passage, which names the boss, and then the
boss's. Each volume has a world of its own, and all questions of a volume are in one split.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Literal

from upslope.retrieval.archive import DETAILS, LINKS, VOLUMES, Asked, World, most_people
from upslope.retrieval.asking import as_problem, cited, looking, replies
from upslope.retrieval.index import in_memory
from upslope.rewards.retrieval import Weights, graded
from upslope.seeds import seed_of, split_of
from upslope.tools import Call
from upslope.tools.play import FORMS, Limits
from upslope.types import Episode, Problem, Reward, Split, Trajectory, UserError

TRIES = 200  # draws for each question wanted before there are taken to be no more


@dataclass(frozen=True)
class Archive:
    """Worlds of ``people``, each with ``links`` to others (boss, pal, aunt) and ``details`` (town,
    pet, car).

    ``hops``: how many passages a question leads through. ``form``: "terse" lines for ladder models,
    "react" or "json" in a chat. ``results``: passages that a search lists. ``wrong``: the share of
    demonstrations that stop a hop early and answer for whom they have reached; without a weight for
    ``citations`` they cite nothing.
    """

    hops: tuple[int, ...] = (2,)
    people: int = 8
    links: int = 2
    details: int = 2
    form: Literal["terse", "react", "json"] = "terse"
    results: int = 2
    k: int = 10
    weights: Weights = field(default_factory=Weights)
    limits: Limits = field(default_factory=Limits)
    wrong: float = 0.0
    train: int = 4000
    test: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        most = min(self.people, (self.limits.turns - 1) // 2)
        if not self.hops or min(self.hops) < 1 or max(self.hops) > most:
            raise UserError(
                f"hops are from 1 to {most}: each takes a person and two turns, so that more of "
                "them need a higher people or limits.turns"
            )
        if not (1 <= self.links <= len(LINKS) and 1 <= self.details <= len(DETAILS)):
            raise UserError(f"links and details are from 1 to {len(LINKS)}")
        if not self.links < self.people <= most_people(self.brief):
            raise UserError(
                f"people is from {self.links + 1}, one more than links, to "
                f"{most_people(self.brief)}, got {self.people}"
            )
        if not 0 <= self.wrong <= 1:
            raise UserError(f"wrong is a share between 0 and 1, got {self.wrong}")
        if min(self.train, self.test, self.results, self.k) < 1:
            raise UserError("train, test, results and k are numbers: set each to at least 1")

    @property
    def brief(self) -> bool:
        """Whether passages are in the fewest characters."""
        return self.form == "terse"

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions of this split's volumes, of each of the ``hops`` in turn."""
        wanted = self.train if split == "train" else self.test
        draw = random.Random(seed_of(self.seed, "archive", split))
        volumes = [n for n in range(VOLUMES) if split_of(f"volume {n}") == split]
        found: dict[str, Problem] = {}
        for _ in range(TRIES * wanted):
            if len(found) == wanted:
                return list(found.values())
            volume, hops = draw.choice(volumes), self.hops[len(found) % len(self.hops)]
            one = self._world(volume).asks(hops, volume, draw)
            if one is not None and one.key not in found:
                found[one.key] = self._problem(one)
        key = "train" if split == "train" else "test"
        raise UserError(
            f"there are only {len(found)} {split} questions of these hops, people, links and "
            f"details: lower {key}, or raise one of them"
        )

    @asynccontextmanager
    async def play(self, problem: Problem) -> AsyncIterator[Episode]:
        """Both tools over the volume that is asked about."""
        passages = self._world(Asked.of(problem.id).volume).passages()
        given = (FORMS[self.form], self.limits, self.results, 0 if self.brief else 60, problem)
        with closing(in_memory(passages)) as index:
            async with looking(index, *given) as play:
                yield play

    def plays(self, split: Split) -> Iterator[tuple[Problem, Sequence[str]]]:
        """Each problem with its solution or, for a share ``wrong``, with the slip."""
        for problem in self.problems(split):
            slips = random.Random(seed_of(self.seed, "wrong", problem.id)).random() < self.wrong
            yield problem, self._replies(Asked.of(problem.id), slips)

    def solved(self, problem: Problem) -> Sequence[str]:
        """Search for each person on the way, open their passage, and answer."""
        return self._replies(Asked.of(problem.id), False)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """By ``weights``; parts as ``rewards.retrieval`` names them."""
        return [graded(t, self.weights, self.k) for t in trajectories]

    def _world(self, volume: int) -> World:
        return World.of(volume, self.people, self.links, self.details, self.brief)

    def _problem(self, one: Asked) -> Problem:
        made = self._world(one.volume)
        evidence = {made.ids[place]: 1.0 for place in made.path(one)}
        text = f"{one.key}?" if self.brief else one.sentence
        final = self._final(one, made, len(evidence))
        answers = made.answers(one)[-1:]
        return as_problem(one.key, text, answers, evidence, final, self.form, self.limits)

    def _replies(self, one: Asked, slips: bool) -> Sequence[str]:
        """The play that answers after the last hop, or after the one before."""
        made = self._world(one.volume)
        path = made.path(one)
        reached = len(path) - slips
        calls = []
        for place in path[:reached]:
            name = made.people[place]
            calls.append(Call("search", {"query": name if self.brief else name.capitalize()}))
            calls.append(Call("open", {"id": made.ids[place]}))
        return replies(FORMS[self.form], calls, self._final(one, made, reached))

    def _final(self, one: Asked, made: World, reached: int) -> str:
        """What is asked for of the person reached; with nobody reached, that one's own name."""
        answer = made.answers(one)[reached - 1] if reached else one.name
        seen = [made.ids[place] for place in made.path(one)[:reached]]
        return cited(answer, seen if self.weights.citations else ())
