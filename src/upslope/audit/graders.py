"""The shipped graders that are not envs, each with problems of its own, so that they can be fuzzed.

``upslope audit reward`` knows them by these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upslope.envs.episodes import single_turn
from upslope.rewards.expression import evaluate
from upslope.rewards.math_answer import Form, math_answers
from upslope.rewards.numeric import exact_number
from upslope.types import Problem, Reward, Split, Trajectory

GRADERS = {
    "numeric": "upslope.audit.graders:Numeric",
    "gsm8k": "upslope.audit.graders:Words",
    "math_answer": "upslope.audit.graders:Formulas",
    "expression": "upslope.audit.graders:Expressions",
}


@dataclass(frozen=True)
class Numeric:
    """``rewards.numeric``: the digits and nothing else."""

    golds: tuple[str, ...] = ("46", "1200", "-7", "305", "9")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """One for each gold answer."""
        return _asked(self.golds, "{}")

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """As ``arithmetic`` grades."""
        return [exact_number(t.text, problem.answer) for t in trajectories]

    def accepted(self, problem: Problem) -> Sequence[str]:
        """Space around it does not matter."""
        return [f" {problem.answer}\n"]


@dataclass(frozen=True)
class Words:
    """``rewards.math_answer`` for answers that are numbers, in the form of GSM8K."""

    golds: tuple[str, ...] = ("46", "1200", "-7", "305", "9")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """One for each gold answer."""
        return _asked(self.golds, "#### {}")

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """As ``math`` grades questions of that form."""
        return await _math(problem, trajectories, "gsm8k")

    def accepted(self, problem: Problem) -> Sequence[str]:
        """The ways in which models say a number."""
        n = problem.answer
        said = [f"The answer is {n}.", f"The answer is ${n}.", f"So it is {n}", f"{n}", f"x = {n}"]
        said += [f"\\boxed{{{n}}}", f"$\\boxed{{{n}.0}}$", f"#### {n}\n", f"#### ${n}"]
        said += [f"2 and 3 more, then some: 5 * 1 = 5. The answer is {n} apples."]
        return [*said, f"The final answer is: **{n}**", f"First 3, then 4. #### {n}"]


@dataclass(frozen=True)
class Formulas:
    """``rewards.math_answer`` for formulas, in the form of MATH."""

    golds: tuple[str, ...] = ("46", "\\frac{3}{4}", "x^2+1", "(3,4)", "\\text{east}")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """One for each gold answer."""
        return _asked(self.golds, "\\boxed{{{}}}")

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """As ``math`` grades questions of that form."""
        return await _math(problem, trajectories, "math")

    def accepted(self, problem: Problem) -> Sequence[str]:
        """The ways in which models say a formula."""
        n = problem.answer
        return [f"It is $\\boxed{{{n}}}$.", f"The answer is ${n}$.", f"#### {n}"]


@dataclass(frozen=True)
class Expressions:
    """``rewards.expression``: what is worth as much as the gold answer."""

    golds: tuple[str, ...] = ("2*3+7", "(4-1)*6", "8/2*5", "9-(2+3)", "7*7-7/7")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """One for each gold answer."""
        return _asked(self.golds, "{}")

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 for the gold's value and numbers."""
        gold = evaluate(problem.answer)
        assert gold is not None
        return [Reward(float(evaluate(t.text) == gold)) for t in trajectories]

    def accepted(self, problem: Problem) -> Sequence[str]:
        """Spaces and typeset signs."""
        return [f" {problem.answer} ", problem.answer.replace("*", "\u00d7")]


def _asked(golds: Sequence[str], frame: str) -> list[Problem]:
    return [
        Problem(f"gold {gold}", prompt="?", answer=gold, solution=frame.format(gold))
        for gold in golds
    ]


async def _math(
    problem: Problem, trajectories: Sequence[Trajectory], form: Form
) -> Sequence[Reward]:
    return await math_answers([t.text for t in trajectories], problem.answer, form)
