"""The ledger: nothing is counted twice, nothing is lost over a resume."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import dataclass

import pytest

from upslope.ledger import PHASES, Ledger, cpu_seconds


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_flops_and_tokens_add_up_by_phase() -> None:
    ledger = Ledger()
    ledger.add("prefill", flops=2e9, tokens=10)
    ledger.add("decode", flops=1e9, tokens=4)
    ledger.add("decode", flops=1e9, tokens=4)
    ledger.add("evaluation", flops=5e9, tokens=20)
    totals = ledger.totals()
    assert (totals.flops, totals.training_flops, totals.tokens) == (9e9, 4e9, 38)
    row = ledger.row()
    assert row["ledger/flops/decode"] == 2e9
    assert row["ledger/tokens/decode"] == 8.0
    assert row["ledger/flops"] == 9e9
    assert "ledger/flops/update" not in row
    assert all(isinstance(value, float) for value in row.values())


@pytest.mark.parametrize(("flops", "tokens"), [(-1.0, 0), (0.0, -1), (float("nan"), 0)])
def test_less_than_nothing_is_refused(flops: float, tokens: int) -> None:
    with pytest.raises(ValueError, match="neither can be"):
        Ledger().add("update", flops=flops, tokens=tokens)


def test_time_goes_to_the_open_phase_and_idle_time_only_to_the_total() -> None:
    wall, cpu = Clock(), Clock(7.0)
    ledger = Ledger(price_per_hour=36.0, clock=wall, cpu_clock=cpu)
    with ledger.time("update"):
        wall.now += 3
        cpu.now += 5
    wall.now += 2
    with contextlib.suppress(KeyError), ledger.time("decode"):
        wall.now += 1
        raise KeyError
    totals = ledger.totals()
    assert (totals.seconds, totals.cpu_seconds) == (6.0, 5.0)
    assert totals.money == pytest.approx(0.06)
    assert ledger.row()["ledger/seconds/update"] == 3.0
    assert ledger.row()["ledger/seconds/decode"] == 1.0


def test_open_phases_share_an_instant_and_one_open_twice_counts_once() -> None:
    wall = Clock()
    ledger = Ledger(clock=wall)
    with ledger.time("decode"):
        wall.now += 1
        with ledger.time("decode"):
            wall.now += 1
            with ledger.time("update"):
                wall.now += 4
        wall.now += 1
    row = ledger.row()
    assert row["ledger/seconds/decode"] == 5.0
    assert row["ledger/seconds/update"] == 2.0
    assert row["ledger/seconds"] == 7.0


def test_concurrent_tasks_never_add_up_to_more_than_elapsed() -> None:
    wall = Clock()
    ledger = Ledger(clock=wall)

    async def play(seconds: int) -> None:
        with ledger.time("decode"):
            for _ in range(seconds):
                wall.now += 1
                await asyncio.sleep(0)

    async def all_at_once() -> None:
        await asyncio.gather(*(play(n) for n in (1, 2, 3)))

    asyncio.run(all_at_once())
    assert ledger.row()["ledger/seconds/decode"] == ledger.totals().seconds == 6.0


def test_threads_lose_nothing() -> None:
    ledger = Ledger()

    def work() -> None:
        for _ in range(500):
            with ledger.time("update"):
                ledger.add("update", flops=1.0, tokens=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.totals().flops == 2000.0
    assert ledger.row()["ledger/seconds/update"] <= ledger.totals().seconds


def test_state_survives_json_and_continues() -> None:
    wall, cpu = Clock(), Clock()
    ledger = Ledger(price_per_hour=3600.0, clock=wall, cpu_clock=cpu)
    ledger.add("update", flops=5.0, tokens=2)
    with ledger.time("update"):
        wall.now += 4
        cpu.now += 3
        state = json.loads(json.dumps(ledger.state()))
    later, later_cpu = Clock(9.0), Clock(9.0)
    resumed = Ledger(price_per_hour=7200.0, clock=later, cpu_clock=later_cpu)
    later.now += 50
    resumed.load_state(state)
    assert resumed.row() == ledger.row()
    with resumed.time("decode"):
        later.now += 1
    assert resumed.totals().seconds == 5.0
    assert resumed.totals().money == pytest.approx(6.0)
    assert set(state["flops"]) == set(PHASES)


def test_ended_children_count() -> None:
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert cpu_seconds() - before > 0.01
