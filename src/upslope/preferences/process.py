"""Steps and what they are worth: read from a file, or estimated by playing on from each of them.

A step is worth the share of completions from it that end right (Math-Shepherd, arXiv:2312.08935).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from upslope import fields
from upslope.chat import Chat
from upslope.envs.datasets import read_rows
from upslope.grading import grade
from upslope.models.reward_model import RewardModel
from upslope.preferences.learned import FEWEST, Row, Stepped
from upslope.preferences.pair import dialogue
from upslope.rollout import together
from upslope.seeds import seed_of
from upslope.types import Engine, Env, Problem, Sampling, Trajectory, UserError


class Solution(NamedTuple):
    """A problem's solution in steps, which follow each other as they are, and each one's worth."""

    problem: Problem
    steps: tuple[str, ...]
    worth: tuple[float, ...]


def solutions_of(path: str | Path) -> list[Solution]:
    """Solutions of a file in TRL's form: a ``prompt``, its ``completions`` (the steps) and
    ``labels``, each true, false or a share. Steps without white space between them get a new line.
    """
    found = []
    for number, row in enumerate(read_rows(path), 1):
        steps, labels = row.fields.get("completions"), row.fields.get("labels")
        texts = isinstance(steps, list) and all(isinstance(s, str) and s for s in steps)
        shares = isinstance(labels, list) and all(_share(label) for label in labels)
        if not texts or not shares or not steps or len(steps) != len(labels):  # type: ignore[arg-type]
            raise UserError(
                f'{row.where}: "completions" must be a list of texts, and "labels" as many of true,'
                " false or shares"
            )
        problem = fields.problem_of({"id": str(number), **row.fields}, row.where, "")
        apart = [s if s[-1].isspace() else s + "\n" for s in steps[:-1]]
        worth = tuple(float(label) for label in labels)  # type: ignore[union-attr]
        found.append(Solution(problem, (*apart, steps[-1]), worth))
    return found


def row_of(model: RewardModel, problem: Problem, steps: Sequence[str]) -> Row:
    """A solution's tokens, and the last of each step's; the last step's is the end of the reply."""
    tokens = [*model.chat.encode(model.chat.messages(problem))]
    at = []
    for place, step in enumerate(steps):
        last = place == len(steps) - 1
        tokens += model.chat.reply(step, () if last else ("",))
        at.append(len(tokens) - 1)
    if len(tokens) >= model.policy.context:
        raise UserError(
            f"the solution of problem {problem.id!r} has {len(tokens)} tokens, and the reward model"
            f" reads {model.policy.context}: leave it out, or choose another model"
        )
    return Row(tokens, at)


def stepped(model: RewardModel, solutions: Sequence[Solution]) -> Stepped:
    """Solutions in a model's tokens."""
    if len(solutions) < FEWEST:
        raise UserError(
            f"{len(solutions)} solutions are too few to learn from: give at least {FEWEST}"
        )
    rows = [row_of(model, one.problem, one.steps) for one in solutions]
    return Stepped(rows, [np.array(one.worth, np.float32) for one in solutions])


async def worth_of(
    engine: Engine,
    env: Env,
    chat: Chat,
    problem: Problem,
    steps: Sequence[str],
    completions: int,
    max_tokens: int,
    seed: int,
) -> list[float]:
    """For each step the mean correctness of ``completions`` that go on after it; for the last the
    solution's own."""
    prompt, found = chat.encode(chat.messages(problem)), list[float]()
    for place in range(1, len(steps)):
        begun = "".join(steps[:place])
        tokens = [*prompt, *chat.reply(begun, ("",))]
        asked = [
            Sampling(
                max_tokens, stop=problem.stop, seed=seed_of(seed, "step", problem.id, place, i)
            )
            for i in range(completions)
        ]
        said = await together([engine.sample(tokens, one) for one in asked])
        ends = [str(chat.parse(c.tokens.tolist(), problem.stop)["content"]) for c in said]
        found.append(await _right(env, problem, [begun + end for end in ends]))
    return [*found, await _right(env, problem, ["".join(steps)])]


async def _right(env: Env, problem: Problem, texts: Sequence[str]) -> float:
    """The mean correctness of those that could be graded."""
    plays = [
        Trajectory(problem, 0, member, (), (), dialogue(problem, text))
        for member, text in enumerate(texts)
    ]
    valid = [r.correct for r in await grade(env, problem, plays) if r.valid]
    if not valid:
        raise UserError(f"no completion of problem {problem.id!r} could be graded")
    return float(np.mean(valid))


def _share(label: Any) -> bool:
    return isinstance(label, bool | int | float) and 0 <= label <= 1
