"""Plays the gold answers of WikiTableQuestions or TabFact, and answers that are none.

    python benchmarks/table_golds.py wikitablequestions --data wikitables
    python benchmarks/table_golds.py tabfact --data tabfact

Every gold answer should earn the full mark, or is listed as an error of the data. No answer whose
value differs should: another question's, a number one higher, a text with a word more, a list with
an item less or more. Exit status 1 where one is graded wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence

from upslope.batteries.env import played
from upslope.envs.workbooks import Workbooks
from upslope.rewards.denotation import agrees, item, joined
from upslope.types import Problem


def others(gold: Sequence[str], neighbour: Sequence[str]) -> Iterator[str]:
    """Answers that differ from the gold one in what they say."""
    if not agrees(joined(neighbour), gold):
        yield joined(neighbour)
    first = item(gold[0], separated=True)
    rest = list(gold[1:])
    if first.number is not None:
        yield joined([f"{first.number + 1:.12g}", *rest])
        yield joined([f"{first.number * 1.01 + 0.5:.12g}", *rest])
    else:
        yield joined([f"{gold[0]} indeed", *rest])
    yield joined([*gold, "something else"])
    if len({item(text, separated=True) for text in gold}) > 1:
        yield joined(gold[:1])


async def graded(env: Workbooks, problem: Problem, answers: Sequence[str]) -> list[float]:
    """How right each answer is, said at once."""
    plays = [await played(env, problem, [f"Final: {a}"], n) for n, a in enumerate(answers)]
    return [reward.correct for reward in await env.rewards(problem, plays)]


async def main() -> None:
    """All questions of the data set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--data", default="wikitables", choices=["wikitables", "tabfact"])
    options = parser.parse_args()
    env = Workbooks(options.folder, options.data)
    problems = [p for split in ("train", "validation", "test") for p in env.problems(split)]
    start, tried, wrong = time.perf_counter(), 0, 0
    faults: list[str] = []
    for number, problem in enumerate(problems):
        gold = problem.info["gold"]
        differing = list(others(gold, problems[number - 1].info["gold"]))
        right, *rest = await graded(env, problem, [joined(gold), *differing])
        tried += len(rest)
        if right != 1:
            faults.append(f"{problem.id}: {gold}")
        for answer, value in zip(differing, rest, strict=True):
            if value:
                wrong += 1
                print(f"  {problem.id}: {answer!r} is taken for {gold}")
    took = time.perf_counter() - start
    kept = len(problems) - len(faults)
    print(f"{options.folder}: {kept} of {len(problems)} gold answers graded right, {took:.0f} s")
    print(*(f"  error of the data? {fault}" for fault in faults), sep="\n")
    print(f"  {wrong} of {tried} answers that differ are graded right")
    sys.exit(bool(wrong or faults))


if __name__ == "__main__":
    asyncio.run(main())
