"""What ``upslope audit reward`` audits: an env, a shipped grader or a reward, by name or file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from upslope.audit.fuzz import Report, fuzz
from upslope.audit.graders import GRADERS
from upslope.components import build, find
from upslope.envs import ENVS
from upslope.files import explained, replace_file
from upslope.names import env_of
from upslope.overrides import tree_of
from upslope.rewards import REWARDS, Grades, Host, OpensReward
from upslope.settings import Component
from upslope.types import Env, Episode, Problem, Reward, Split, Trajectory, UserError

TOKENS = 256  # of a reply that a reward compares with, at most


@dataclass(frozen=True)
class Graded:
    """An env's problems and plays, graded by a reward of a recipe."""

    env: Env
    grades: Grades

    def problems(self, split: Split) -> Sequence[Problem]:
        """The env's."""
        return self.env.problems(split)

    def play(self, problem: Problem) -> AbstractAsyncContextManager[Episode]:
        """The env's."""
        return self.env.play(problem)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The reward's."""
        return await self.grades.rewards(problem, trajectories)


def audit_reward(
    name: str, settings: Sequence[str], env: str, problems: int, against: str, out: str
) -> Report:
    """Fuzz what ``name`` means; the report, which is also in the JSON file ``out``.

    ``env`` lends a reward its problems. ``against`` is another grader of the same problems.
    """
    made = target(name, settings, env)
    other = target(against, (), env) if against else None
    report = fuzz(made, made.problems("test")[:problems], name, other)
    if out:
        path = Path(out).expanduser()
        with explained(path):
            replace_file(path, json.dumps(report.table(), indent=1).encode() + b"\n")
    return report


def target(name: str, settings: Sequence[str], env: str) -> Env:
    """An env whose grader is the one named; UserError where there is none such."""
    kinds = {**ENVS, **GRADERS, **REWARDS}
    given = Component(type=name, **tree_of(settings))
    made = build(find(kinds, given.type, "env, grader or reward"), given.settings, name)
    if isinstance(made, Env):
        return made
    if isinstance(made, OpensReward):
        lent = env_of(Component(type=env))
        return Graded(lent, made.open(_host(lent)))
    raise UserError(f"{name} grades nothing: it needs problems and rewards, or open")


def _host(env: Env) -> Host:
    """What a reward of a recipe may need, with the smallest model that there is."""
    from upslope.chat import Chat
    from upslope.engines.local import LocalEngine
    from upslope.models.load import load
    from upslope.rewarding import playing
    from upslope.rollout import Player

    policy = load("ladder:0.1m")
    chat, engine = Chat(policy.tokenizer, policy.eos), LocalEngine(policy)
    play = playing(Player(engine, env, chat, TOKENS, 1.0), 0, _spend)
    return Host(env, policy, chat, engine, 0, _spend, lambda line: None, play)


def _spend(flops: float, tokens: int) -> None:
    """Nobody counts what an attack costs."""
