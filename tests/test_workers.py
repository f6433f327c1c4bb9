"""Grading in worker processes: whatever a grader does, the others are graded, the loop goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from upslope.grading import grade
from upslope.rewards import workers as module
from upslope.rewards.worker import Limits
from upslope.rewards.workers import Outcome, Workers
from upslope.types import Problem, Reward, Trajectory, UserError

GRADER = "graders:obey"
WARM = ("warm",)
BUSY = Limits(computing=0.1, elapsed=60.0, memory=1 << 30)
IDLE = Limits(computing=60.0, elapsed=0.5, memory=1 << 30)


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    workers = Workers(GRADER, WARM, BUSY, size=2)
    yield workers
    workers.close()


def graded(workers: Workers, *words: str) -> list[Outcome]:
    """An outcome for each word; a word that means nothing is worth its place."""
    return asyncio.run(workers.grade([(word, i) for i, word in enumerate(words)]))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("spin", "grading took more than 0.1 CPU-seconds"),
        ("power", "grading took more than 0.1 CPU-seconds"),
        ("eat", "grading took more than 1 GiB of memory"),
        ("raise", "the grader raised ZeroDivisionError: integer division or modulo by zero"),
        ("crash", "grading ended its process: SIGSEGV"),
        ("exit", "grading ended its process: exit status 3"),
        ("end", "grading ended its process: it was killed"),
    ],
)
def test_a_failed_grading_has_its_reason_and_the_others_are_graded(
    two: Workers, word: str, reason: str
) -> None:
    assert graded(two, "a", word, "b", word, "c") == [
        Outcome(0),
        Outcome(reason=reason),
        Outcome(2),
        Outcome(reason=reason),
        Outcome(4),
    ]


def test_a_grader_that_waits_is_ended_too() -> None:
    workers = Workers(GRADER, WARM, IDLE, size=1)
    seen = graded(workers, "a", "sleep", "b")
    workers.close()
    assert seen == [Outcome(0), Outcome(reason="grading took more than 0.5 seconds"), Outcome(2)]


def test_a_worker_killed_from_outside_is_replaced(two: Workers) -> None:
    assert graded(two, "orphan", "a") == [Outcome(None), Outcome(1)]
    assert [graded(two, "b", "c") for _ in range(4)] == [[Outcome(0), Outcome(1)]] * 4


def test_what_a_grader_prints_is_no_outcome(two: Workers) -> None:
    assert graded(two, "print", "a") == [Outcome(None), Outcome(1)]


def test_workers_are_light_warm_and_away_from_the_terminal() -> None:
    workers = Workers(GRADER, WARM, size=1)
    seen = graded(workers, "calls", "loaded", "session")
    workers.close()
    assert [outcome.value for outcome in seen] == [2, [], True]


def test_texts_of_any_kind_arrive() -> None:
    texts = ["", "\ud800", "\0", "\n{}\n", "\u0665", "9" * 2_000_000]
    for function in (ascii, len):
        workers = Workers(f"builtins:{function.__name__}", ("",), size=1)
        given = texts[:5] if function is ascii else texts
        seen = asyncio.run(workers.grade([(text,) for text in given]))
        workers.close()
        assert [outcome.value for outcome in seen] == [function(text) for text in given]


def test_a_group_is_one_call_and_groups_share_the_processes(two: Workers) -> None:
    async def groups() -> list[list[Outcome]]:
        return await asyncio.gather(*(two.grade([("pid", 0)] * 3) for _ in range(20)))

    pids = [{outcome.value for outcome in group} for group in asyncio.run(groups())]
    assert all(len(group) == 1 for group in pids)
    assert len(set.union(*pids)) <= 2
    assert os.getpid() not in set.union(*pids)


def test_the_event_loop_goes_on_meanwhile(two: Workers) -> None:
    async def counted() -> tuple[int, list[Outcome]]:
        task, ticks = asyncio.ensure_future(two.grade([("spin", 0)])), 0
        while not task.done():
            await asyncio.sleep(0)
            ticks += 1
        return ticks, await task

    ticks, (outcome,) = asyncio.run(counted())
    assert outcome.reason
    assert ticks > 100


def test_a_grading_given_up_leaves_its_place_to_the_next() -> None:
    workers = Workers(GRADER, WARM, IDLE, size=1)

    async def impatient() -> list[Outcome]:
        first = asyncio.ensure_future(workers.grade([("sleep", 0)] * 2))
        waiting = asyncio.ensure_future(workers.grade([("sleep", 0)] * 100))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(first, waiting, return_exceptions=True)
        return await workers.grade([("a", 7)])

    start = time.monotonic()
    assert asyncio.run(impatient()) == [Outcome(7)]
    assert time.monotonic() - start < 30  # and not 100 times half a second
    workers.close()


def test_nothing_is_started_before_it_is_needed_or_left_after() -> None:
    before = threading.active_count()
    workers = Workers(GRADER, WARM, size=2)
    assert (workers.workers, threading.active_count()) == ([], before)
    (outcome,) = graded(workers, "pid")
    workers.close()
    assert threading.active_count() == before
    assert gone(outcome.value)
    assert graded(workers, "a") == [Outcome(0)]  # it may be used again
    workers.close()


def test_a_grader_that_is_not_there_says_so() -> None:
    workers = Workers("no_such_module:grade", size=1)
    (outcome,) = graded(workers, "a")
    workers.close()
    assert outcome.reason.endswith("ModuleNotFoundError: No module named 'no_such_module'")


PROGRAM = """
import asyncio, sys
from upslope.rewards.worker import Limits
from upslope.rewards.workers import Workers
workers = Workers("graders:obey", ("warm",), Limits(elapsed=1.0), size=1)
async def main():
    print((await workers.grade([("pid", 0)]))[0].value, flush=True)
    await workers.grade([("sleep", 0)])
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_run_is_the_end_of_its_workers(how: signal.Signals) -> None:
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.append({here!r})\n{PROGRAM}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        run.send_signal(how)
        _, errors = run.communicate(timeout=60)
    if how == signal.SIGINT:
        assert errors.strip().endswith("KeyboardInterrupt")
    assert gone(worker)


def gone(process: int) -> bool:
    """Whether it ends, soon: its input has ended, and what it computes is bounded."""
    for _ in range(600):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


class Slow:
    """An env whose grading waits for workers."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    async def rewards(self, problem: Problem, plays: list[Trajectory]) -> list[Reward]:
        outcomes = await self.workers.grade([(t.text, 1) for t in plays])
        return [Reward(float(o.value or 0), valid=not o.reason, reason=o.reason) for o in outcomes]


def play_of(text: str) -> Trajectory:
    said = ({"role": "assistant", "content": text},)
    return Trajectory(Problem("p", prompt="p"), 0, 0, (), (), said)


def test_to_wait_for_a_busy_worker_is_not_to_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight groups of half a second each pass one worker; none may stand still for a second."""
    monkeypatch.setattr(module, "SIGN_OF_LIFE", 0.1)
    workers = Workers(GRADER, WARM, IDLE, size=1)
    graded(workers, "a")

    async def all_of_them(seconds: float) -> list[list[Reward]]:
        env, plays = Slow(workers), [play_of("sleep")]
        problem = plays[0].problem
        gradings = [grade(env, problem, plays, seconds) for _ in range(8)]  # type: ignore[arg-type]
        return [list(rewards) for rewards in await asyncio.gather(*gradings)]

    rewards = asyncio.run(all_of_them(1.5))
    assert [reward.valid for (reward,) in rewards] == [False] * 8
    monkeypatch.setattr(module, "SIGN_OF_LIFE", 60.0)
    with pytest.raises(UserError, match=r"took more than 0.3 s"):
        asyncio.run(all_of_them(0.3))
    workers.close()
