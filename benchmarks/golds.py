"""Grades the gold answers of data sets in GSM8K's or MATH's form: every one should be right.

    python benchmarks/golds.py gsm8k/test.jsonl math500/test.jsonl

For each file: how many of the data set's own solutions are graded right, as a run grades replies;
then how many gold answers equal themselves by algebra alone, with the comparison of numbers and
texts left out, which says what math-verify cannot read. Exit status 1 where a solution is not
graded right.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from upslope.envs.mathematics import Mathematics
from upslope.rewards.math_answer import fault, math_answers, workers
from upslope.types import Problem


async def right(problems: list[Problem]) -> list[str]:
    """What is not graded right, each as the gold answer and why."""
    wrong = []
    for problem in problems:
        (reward,) = await math_answers([problem.solution], problem.answer, problem.info["form"])
        if reward.correct != 1:
            wrong.append(f"{problem.answer}  {reward.reason or reward.answer}")
    return wrong


async def by_algebra(problems: list[Problem]) -> tuple[list[str], float]:
    """Gold answers that algebra does not find equal to themselves, and the slowest's seconds."""
    wrong, slowest = [], 0.0
    for problem in problems:
        start = time.perf_counter()
        (outcome,) = await workers().grade([(problem.answer, problem.answer)])
        slowest = max(slowest, time.perf_counter() - start)
        if not outcome.value:
            wrong.append(f"{problem.answer}  {outcome.reason or 'not read'}")
    return wrong, slowest


def main() -> None:
    """All files; the algebra of one answer only once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--show", type=int, default=10, help="failures to print of each kind")
    options = parser.parse_args()
    failed = 0
    for file in options.files:
        problems = list(Mathematics(test=file).problems("test"))
        assert not any(fault(p.answer, p.info["form"]) for p in problems)
        start = time.perf_counter()
        wrong = asyncio.run(right(problems))
        took = time.perf_counter() - start
        print(f"{file}: {len(problems) - len(wrong)} of {len(problems)} graded right, {took:.1f} s")
        print(*(f"  {line}" for line in wrong[: options.show]), sep="\n", end="\n" if wrong else "")
        each = list({p.answer: p for p in problems}.values())
        unread, slowest = asyncio.run(by_algebra(each))
        print(
            f"  by algebra alone {len(each) - len(unread)} of {len(each)} different ones, "
            f"the slowest in {slowest:.2f} s; not:"
        )
        print(*(f"    {line}" for line in unread[: options.show]), sep="\n")
        failed += len(wrong)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
