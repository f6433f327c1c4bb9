"""Grades 10,000 answers of which 1% hang: all others must be graded, and the loop must go on.

    python benchmarks/hanging.py --answers 10000 --share 0.01

Right, wrong and unreadable answers to n/7 in groups of 8, all handed in at once through the checks
that a run grades with. Hanging ones make sympy compute a tower of powers or a huge factorial, or
put the grader itself to sleep. Printed: seconds, what became of each kind, and the longest time for
which the event loop stood still. Exit status 1 where an answer has another verdict than it should.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from upslope.envs.episodes import single_turn
from upslope.grading import grade
from upslope.machine import cores
from upslope.rewards import math_answer
from upslope.rewards.workers import Workers
from upslope.types import Problem, Reward, Split, Trajectory

GROUP = 8
SLEEPY = "\\boxed{z_{600}}"
HANGING = ("\\boxed{10^{10^{10}}}", "\\boxed{1000000!}", "\\boxed{(10^{9})^{10^{9}}}", SLEEPY)


def sleepy(gold: str, answer: str) -> bool:
    """The grader, but that one answer puts it to sleep; runs in a worker."""
    if answer in SLEEPY:
        time.sleep(600)
    return math_answer.algebra(gold, answer)


@dataclass(frozen=True)
class Sevenths:
    """Fractions, so that algebra is needed."""

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """None: the answers are made here."""
        return []

    async def rewards(self, problem: Problem, plays: Sequence[Trajectory]) -> Sequence[Reward]:
        """By mathematical value."""
        return await math_answer.math_answers([t.text for t in plays], problem.answer, "math")


def answer_of(draw: random.Random, n: int, share: float) -> tuple[str, str]:
    """A reply to "n sevenths", and what its verdict should be."""
    if draw.random() < share:
        return draw.choice(HANGING), "invalid"
    right = (
        f"\\boxed{{{n}/7}}",
        f"It is \\boxed{{\\frac{{{2 * n}}}{{14}}}}.",
        f"\\boxed{{{n}\\div 7}}",
    )
    wrong = (f"\\boxed{{{n + 1}/7}}", "\\boxed{\\sqrt{7}}", "I cannot say.", "\\boxed{\\frac{7}}")
    kind = draw.choice(("right", "wrong"))
    return draw.choice(right if kind == "right" else wrong), kind


def verdict(reward: Reward) -> str:
    """In a word."""
    return ("right" if reward.correct == 1 else "wrong") if reward.valid else "invalid"


async def stood_still(until: asyncio.Task[list[Sequence[Reward]]]) -> float:
    """The longest time between two turns of the event loop, in seconds."""
    longest, last = 0.0, time.perf_counter()
    while not until.done():
        await asyncio.sleep(0.01)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def run(groups: Sequence[Sequence[Trajectory]]) -> tuple[list[Sequence[Reward]], float]:
    """Rewards of all groups, and how long the loop stood still."""

    async def everything() -> list[Sequence[Reward]]:
        env = Sevenths()
        return await asyncio.gather(*(grade(env, plays[0].problem, plays) for plays in groups))

    task = asyncio.ensure_future(everything())
    longest = await stood_still(task)
    return await task, longest


def main() -> None:
    """Make the answers, grade them, compare the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=0.01, help="of answers that hang")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    workers = Workers("hanging:sleepy", ("\\frac{1}{2}", "0.5"))
    math_answer.workers = lambda: workers  # type: ignore[assignment]
    draw, groups, wanted = random.Random(options.seed), [], []
    for n in range(options.answers // GROUP):
        problem, plays = Problem(str(n), prompt=f"{n}/7", answer=f"\\frac{{{n}}}{{7}}"), []
        for member in range(GROUP):
            text, kind = answer_of(draw, n, options.share)
            said = ({"role": "assistant", "content": text},)
            plays.append(Trajectory(problem, 0, member, (), (), said))
            wanted.append(kind)
        groups.append(plays)
    start = time.perf_counter()
    rewards, longest = asyncio.run(run(groups))
    took = time.perf_counter() - start
    flat = [reward for group in rewards for reward in group]
    seen = Counter(zip(wanted, map(verdict, flat), strict=True))
    print(f"{len(flat)} answers in {took:.0f} s with {cores()} workers")
    for (should, was), count in sorted(seen.items()):
        print(f"  {count:6} that are {should:8} are graded {was}")
    for reason, count in sorted(Counter(r.reason for r in flat if not r.valid).items()):
        print(f"  {count:6} invalid: {reason}")
    print(f"  the event loop stood still for at most {1000 * longest:.0f} ms")
    sys.exit(any(should != was for should, was in seen))


if __name__ == "__main__":
    main()
