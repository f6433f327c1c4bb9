"""Several envs as one: each problem knows whose it is, and its own env plays and grades it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import zip_longest

from upslope.envs.episodes import AGAIN, DemonstratesPlays, SolvesInTurns
from upslope.types import (
    Demonstrates,
    Env,
    Episode,
    Problem,
    Reward,
    Split,
    Trajectory,
    UserError,
)


@dataclass(frozen=True)
class Mixture:
    """``envs`` by label, and how often each has its turn in training, relative to the others.

    Problems come in turns, whatever the weights, so that a first few of them are of every env and
    an evaluation asks each equally often. Their ids begin with the label.
    """

    envs: Mapping[str, Env]
    weights: Mapping[str, float]

    def problems(self, split: Split) -> Sequence[Problem]:
        """All envs' problems in turns, until each has no more."""
        labelled = [
            [replace(p, id=f"{label}/{p.id}", env=label) for p in env.problems(split)]
            for label, env in self.envs.items()
        ]
        return [p for turn in zip_longest(*labelled) for p in turn if p is not None]

    def play(self, problem: Problem) -> AbstractAsyncContextManager[Episode]:
        """Its own env's play."""
        return self.envs[problem.env].play(_own(problem))

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """Its own env's rewards."""
        env, own, plays = self.part(problem, trajectories)
        return await env.rewards(own, plays)

    def part(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> tuple[Env, Problem, Sequence[Trajectory]]:
        """A problem's own env, and the problem and its plays as that env knows them."""
        own = _own(problem)
        return self.envs[problem.env], own, [replace(t, problem=own) for t in trajectories]

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """All envs' demonstrations in turns; UserError where one writes none."""
        written = [_written(label, env, split) for label, env in self.envs.items()]
        return (pair for turn in zip_longest(*written) for pair in turn if pair is not None)

    def plays(self, split: Split) -> Iterator[tuple[Problem, Sequence[str]]]:
        """All envs' plays in turns, of one reply where an env writes no longer ones."""
        written = [_played(label, env, split) for label, env in self.envs.items()]
        return (pair for turn in zip_longest(*written) for pair in turn if pair is not None)

    def solved(self, problem: Problem) -> Sequence[str]:
        """Its own env's solution."""
        env = self.envs[problem.env]
        if isinstance(env, SolvesInTurns):
            return env.solved(_own(problem))
        return (problem.solution,) * AGAIN


def _own(problem: Problem) -> Problem:
    return replace(problem, id=problem.id.removeprefix(f"{problem.env}/"), env="")


def _written(label: str, env: Env, split: Split) -> Iterator[tuple[Problem, str]]:
    if not isinstance(env, Demonstrates):
        raise UserError(f"env {label} writes no demonstrations: give source.path a JSONL file")
    for problem, reply in env.demonstrations(split):
        yield replace(problem, id=f"{label}/{problem.id}", env=label), reply


def _played(label: str, env: Env, split: Split) -> Iterator[tuple[Problem, Sequence[str]]]:
    if not isinstance(env, DemonstratesPlays):
        yield from ((problem, (reply,)) for problem, reply in _written(label, env, split))
        return
    for problem, replies in env.plays(split):
        yield replace(problem, id=f"{label}/{problem.id}", env=label), replies
