"""How good a policy is on held-out problems: accuracy with an interval, the same code everywhere.

Training, ``upslope eval`` and the self-check share this prompt, sampler, grader and statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from upslope.rollout import Player, together
from upslope.types import Group, Problem, Usage, UserError, graded

Z95 = 1.959963984540054


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
    """One evaluation's two figures: temperature 1 (``sampled``) and ``greedy``."""

    sampled: Evaluation
    greedy: Evaluation
    groups: tuple[Group, ...]
    usage: Usage


async def evaluate(player: Player, problems: Sequence[Problem], samples: int, seed: int) -> Both:
    """Play each problem ``samples`` times at temperature 1 and once greedily.

    Draws depend on (seed, problem, member) alone, so two policies meet the same luck.
    """
    if not problems:
        raise UserError("the env has no problems in the evaluation's split: give it more")
    hot, cold = replace(player, temperature=1.0), replace(player, temperature=0.0)
    plays = []
    for problem in problems:
        plays.append(hot.group(problem, 0, samples, seed, "evaluation"))
        plays.append(cold.group(problem, 0, 1, seed, "evaluation"))
    groups = await together(plays)
    sampled, greedy = groups[0::2], groups[1::2]
    usage = sum((t.usage for g in groups for t in g.trajectories), Usage())
    return Both(summary(sampled, 1.0), summary(greedy, 0.0), tuple(groups), usage)


def summary(groups: Sequence[Group], temperature: float) -> Evaluation:
    """Figures over groups; a problem none of whose trajectories is valid does not count."""
    played = [t for g in groups for t in g.trajectories]
    valid = [[graded(t) for t in g.trajectories if graded(t).valid] for g in groups]
    per_problem = np.array([np.mean([r.correct for r in rs]) for rs in valid if rs])
    if not len(per_problem):
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
        truncated=float(np.mean([t.turns[-1].stop_reason == "length" for t in played])),
        invalid=sum(not graded(t).valid for t in played),
    )


def interval(per_problem: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95% interval of accuracies in [0, 1], one a problem, so clustered by problem.

    Wilson's interval with the number of trials that the variance between problems is worth: right
    at 0 and 1, where a normal interval has no width, and no narrower for samples of one problem
    that agree. Outside [0, 1] it is the normal interval.
    """
    n, mean = len(per_problem), float(np.mean(per_problem))
    variance = float(np.var(per_problem, ddof=1)) / n if n > 1 else 0.0
    if per_problem.min() < 0 or per_problem.max() > 1:  # rewards of an env that names no accuracy
        half = Z95 * math.sqrt(variance)
        return mean, mean - half, mean + half
    binomial = mean * (1 - mean)
    trials = binomial / variance if variance > 0 and binomial > 0 else float(n)
    shrink = 1 + Z95**2 / trials
    centre = (mean + Z95**2 / (2 * trials)) / shrink
    half = Z95 / shrink * math.sqrt(binomial / trials + Z95**2 / (4 * trials**2))
    return mean, max(0.0, centre - half), min(1.0, centre + half)
