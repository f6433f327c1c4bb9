"""Threads: each side's own number, shared out while both compute, and never more than there are."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch

from upslope import machine, threads
from upslope.threads import Threads, resolved
from upslope.types import UserError

LARGE = 100_000_000  # parameters


@pytest.fixture(autouse=True)
def one_thread_again():
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(("count", "loop", "update"), [(1, 1, 1), (2, 1, 1), (3, 1, 2), (16, 8, 8)])
def test_both_sides_together_have_what_there_is(count: int, loop: int, update: int) -> None:
    async def seen() -> tuple[int, ...]:
        sampling, meanwhile = True, list[int]()
        shared, met = Threads(count, lambda: sampling), threading.Event()
        before = torch.get_num_threads()

        def work() -> tuple[int, int]:
            nonlocal sampling
            met.wait(10)
            beside = torch.get_num_threads()
            sampling = False
            shared.share()
            return beside, torch.get_num_threads()

        async def sample() -> None:
            meanwhile.append(torch.get_num_threads())
            met.set()

        beside, alone = (await asyncio.gather(shared.beside(work), sample()))[0]
        return before, *meanwhile, beside, alone, torch.get_num_threads()

    assert asyncio.run(seen()) == (count, loop, update, count, count)


def test_an_update_alone_has_all_and_its_failure_gives_them_back() -> None:
    shared = Threads(4, lambda: False)

    def fail() -> None:
        raise ArithmeticError(torch.get_num_threads())

    with pytest.raises(ArithmeticError, match="4"):
        asyncio.run(shared.beside(fail))
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("250000 100000", 2), ("5000 100000", 1), (None, 8)]
)
def test_a_containers_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, cores: int
) -> None:
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "CPU_MAX", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert machine.cores() == cores


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (0.3, 0.0, 0.0))
    said = list[str]()
    assert [resolved(wanted, LARGE, said.append) for wanted in (0, 1, 2)] == [2, 1, 2]
    assert said == []
    with pytest.raises(UserError, match=r"machine.threads=3 is more than the 2 cores there are"):
        resolved(3, LARGE, said.append)


def test_a_small_model_has_one_thread_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (0.3, 0.0, 0.0))
    assert [resolved(wanted, 600_000, print) for wanted in (0, 1, 2)] == [1, 1, 2]


def test_a_busy_machine_is_told_of_where_threads_would_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (5.64, 0.0, 0.0))
    said = list[str]()
    assert [resolved(wanted, LARGE, said.append) for wanted in (1, 2)] == [1, 2]
    assert len(said) == 1
    assert "load 5.6 on 2 cores" in said[0]
