"""Grades the solutions that code data sets give, and the same solutions with another value.

    python benchmarks/code_golds.py mbpp.jsonl HumanEval.jsonl.gz

For each file: how many of its own solutions pass all of their tests, and how many still do when
every function that they define gives something else than it should. Exit status 1 where the second
is not 0. What fails of the first is listed: a solution too slow or wrong is its data set's error.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from upslope.envs.code import DEFINED, Code
from upslope.sandbox import Limits, offered
from upslope.types import Problem, Trajectory

OTHER = """
def _other(function):
    def wrong(*arguments, **words):
        return ("another value", function(*arguments, **words))
    return wrong
"""


def spoiled(problem: Problem) -> str:
    """The solution, whose functions give another value."""
    code = problem.solution.removeprefix("```python\n").removesuffix("\n```")
    names = sorted(set(DEFINED.findall(code)) - {"__init__"})
    wrapped = "".join(
        f"{name} = _other({name}) if '{name}' in globals() else None\n" for name in names
    )
    return f"```python\n{code}\n{OTHER}{wrapped}```"


def play(problem: Problem, reply: str) -> Trajectory:
    """A reply as a trajectory."""
    said = {"role": "assistant", "content": reply}
    return Trajectory(problem, 0, 0, (), (), (*problem.messages, said))


async def graded(env: Code, problem: Problem) -> tuple[Problem, bool, bool, str]:
    """Whether the solution passes, whether the other does, and why the first does not."""
    plays = [play(problem, problem.solution), play(problem, spoiled(problem))]
    right, wrong = await env.rewards(problem, plays)
    return problem, right.correct == 1, wrong.correct == 1, right.reason


async def main() -> None:
    """All files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--seconds", type=float, default=15.0, help="for a program with its tests")
    options = parser.parse_args()
    print("python", *sys.argv, f"(sandbox: {offered().level})")
    passed_wrong = 0
    for file in options.files:
        env = Code(test=file, limits=Limits(seconds=options.seconds), sandbox=offered().level)
        problems, began = env.problems("test"), time.perf_counter()
        rows = []
        for first in range(0, len(problems), 32):
            some = problems[first : first + 32]
            rows += await asyncio.gather(*(graded(env, problem) for problem in some))
        good, bad = sum(row[1] for row in rows), sum(row[2] for row in rows)
        passed_wrong += bad
        took = time.perf_counter() - began
        print(
            f"{file}: {good} of {len(rows)} solutions pass, {bad} with other values, {took:.0f} s"
        )
        for problem, right, wrong, why in rows:
            if not right or wrong:
                print(f"  {problem.id}: {why or 'passes with other values'}")
    sys.exit(int(passed_wrong > 0))


if __name__ == "__main__":
    asyncio.run(main())
