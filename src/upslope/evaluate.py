"""How good a policy is on held-out problems: accuracy with an interval, the same code everywhere.

Training, ``upslope eval`` and ``upslope compare`` share this prompt, sampler and grader, and the
statistics of ``estimates.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from upslope import estimates
from upslope.estimates import Difference, Interval, interval
from upslope.rollout import Player, together
from upslope.types import Group, Problem, Reward, Usage, UserError, graded


@dataclass(frozen=True)
class Evaluation:
    """Accuracy ``mean`` with its 95% interval over ``problems``, at one temperature.

    ``reward`` is the mean total, ``length`` the mean tokens sampled, ``truncated`` the share cut by
    the length limit; ``invalid`` counts trajectories that could not be graded and are left out.
    """

    mean: float
    low: float
    high: float
    problems: int
    samples: int
    temperature: float
    reward: float
    length: float
    truncated: float
    invalid: int

    def row(self) -> dict[str, float]:
        """As plain numbers."""
        return asdict(self)


@dataclass(frozen=True)
class Both:
    """One evaluation's two figures: temperature 1 (``sampled``) and ``greedy``.

    ``at_k``: the sampled answers' ``pass``, ``worst`` and ``majority`` at k = samples, above 1.
    """

    sampled: Evaluation
    greedy: Evaluation
    at_k: Mapping[str, Interval]
    groups: tuple[Group, ...]
    usage: Usage


async def play(
    player: Player, problems: Sequence[Problem], samples: int, seed: int
) -> tuple[list[Group], list[Group]]:
    """Groups of ``samples`` at temperature 1, none where it is 0, and greedy groups of one.

    Draws depend on (seed, problem, member) alone, so two policies meet the same luck.
    """
    if not problems:
        raise UserError("the env has no problems in the evaluation's split: give it more")
    hot, cold = (replace(player, temperature=t, greedy=False) for t in (1.0, 0.0))
    plays = []
    for problem in problems:
        if samples:
            plays.append(hot.group(problem, 0, samples, seed, "evaluation"))
        plays.append(cold.group(problem, 0, 1, seed, "evaluation"))
    groups = await together(plays)
    return (groups[0::2], groups[1::2]) if samples else ([], groups)


async def evaluate(player: Player, problems: Sequence[Problem], samples: int, seed: int) -> Both:
    """Play each problem ``samples`` times, at least once, at temperature 1 and once greedily."""
    sampled, greedy = await play(player, problems, samples, seed)
    groups = tuple(group for pair in zip(sampled, greedy, strict=True) for group in pair)
    at_k = at(samples, sampled) if samples > 1 else {}
    return Both(summary(sampled, 1.0), summary(greedy, 0.0), at_k, groups, usage(groups))


def usage(groups: Sequence[Group]) -> Usage:
    """What playing them cost."""
    return sum((t.usage for g in groups for t in g.trajectories), Usage())


def summary(groups: Sequence[Group], temperature: float) -> Evaluation:
    """Figures over groups; a problem none of whose trajectories is valid does not count."""
    played = [t for g in groups for t in g.trajectories]
    valid = [valid_rewards(group) for group in groups]
    per_problem = [_mean(rewards) for rewards in valid if rewards]
    if not per_problem:
        raise UserError(
            f"no trajectory could be graded in an evaluation of {len(groups)} problems: "
            f"{next((graded(t).reason for t in played), '') or 'the env gave no reason'}"
        )
    mean, low, high = interval(per_problem)
    return Evaluation(
        mean=mean,
        low=low,
        high=high,
        problems=len(per_problem),
        samples=len(groups[0].trajectories),
        temperature=temperature,
        reward=float(np.mean([r.total for rs in valid for r in rs])),
        length=float(np.mean([t.length for t in played])),
        truncated=float(np.mean([t.truncated for t in played])),
        invalid=sum(not graded(t).valid for t in played),
    )


def by_env(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Those of each of several envs, where it could grade any; empty where there is one env."""
    names = sorted({g.problem.env for g in groups if g.problem.env and valid_rewards(g)})
    return {name: [g for g in groups if g.problem.env == name] for name in names}


def valid_rewards(group: Group) -> list[Reward]:
    """Those of a group that say something: a grader that failed says nothing."""
    return [reward for reward in group.rewards if reward.valid]


def at(k: int, groups: Sequence[Group]) -> dict[str, Interval]:
    """``pass``, ``worst`` and, where right replies name their answer, ``majority``, at ``k``.

    Over the problems with ``k`` valid answers; empty where there is none.
    """
    valid = [rewards for rewards in map(valid_rewards, groups) if len(rewards) >= k]
    if not valid:
        return {}
    right = [[reward.correct for reward in rewards] for rewards in valid]
    found = {
        "pass": interval([estimates.pass_at(k, values) for values in right]),
        "worst": interval([estimates.worst_at(k, values) for values in right]),
    }
    if all(reward.answer or not reward.correct for rewards in valid for reward in rewards):
        said = [[reward.answer for reward in rewards] for rewards in valid]
        votes = zip(said, right, strict=True)
        found["majority"] = interval([estimates.majority_at(k, *vote) for vote in votes])
    return found


def difference(before: Sequence[Group], after: Sequence[Group]) -> Difference:
    """The paired test of two evaluations, over the problems that both have a valid answer to.

    UserError where they were not asked the same problems in the same order.
    """
    for one, other in zip(before, after, strict=False):
        if _asked(one.problem) != _asked(other.problem):
            raise UserError(
                f"the evaluations differ in problem {one.problem.id!r}: compare two models on the "
                "same env, settings and split"
            )
    if len(before) != len(after):
        raise UserError(
            f"the evaluations have {len(before)} and {len(after)} problems: compare two models on "
            "the same ones"
        )
    pairs = [tuple(map(valid_rewards, pair)) for pair in zip(before, after, strict=True)]
    means = [[_mean(rewards) for rewards in pair] for pair in pairs if all(pair)]
    a, b = [one for one, _ in means], [other for _, other in means]
    shares = all(0 <= value <= 1 for value in (*a, *b))
    step = 1 / len(before[0].trajectories) if before and shares else 0.0
    return estimates.paired(a, b, step)


def _asked(problem: Problem) -> tuple[object, ...]:
    return problem.id, problem.prompt, problem.messages, problem.answer


def _mean(rewards: Sequence[Reward]) -> float:
    return float(np.mean([reward.correct for reward in rewards]))
