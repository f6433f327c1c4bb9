"""The engine in a process of its own: as the local one in all it says, and no process is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from records import Interrupt
from small_policies import policy
from upslope.batteries import check_engine
from upslope.engines import OpensApart
from upslope.engines.apart import ApartEngine
from upslope.engines.local import Local, LocalEngine
from upslope.engines.wire import Failure, Message, Wire
from upslope.launch import train_recipe
from upslope.models.policy import Policy, checksum
from upslope.recipe import read
from upslope.resume import resume_recipe
from upslope.session import Session
from upslope.threads import Threads
from upslope.types import Action, Completion, Engine, Group, Metrics, Sampling, UserError

PROMPTS = [[3, 4, 5], [6, 7, 8, 9, 10, 11, 12], [5], [3, 4, 5], [8, 8, 8], [4, 9, 3, 7, 5]]
RECIPE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "name": "stale",
    "machine": {"threads": 1},
    "check": {"problems": 2},
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 4, "group": 4, "max_tokens": 4, "max_staleness": 1},
    "evaluation": {"problems": 8},
    "checkpoint": {"every": 2},
    "stop": {"steps": 6},
}


def endless(name: str = "llama", seed: int = 0) -> Policy:
    p = policy(name, seed)
    p.eos = ()
    return p


@pytest.fixture(scope="module")
def engine() -> Iterator[ApartEngine]:
    made = ApartEngine(endless(), 4, 1)
    yield made
    made.close()
    assert ended(made)


def ended(engine: ApartEngine) -> bool:
    assert engine._process is not None
    return engine._process.poll() is not None


async def gathered(
    engine: Engine, requests: Sequence[tuple[list[int], Sampling]]
) -> list[Completion]:
    return await asyncio.gather(*(engine.sample(*request) for request in requests))


def true_logprobs(p: Policy, prompt: list[int], tokens: np.ndarray) -> np.ndarray:
    row = torch.tensor([[*prompt, *tokens.tolist()]])
    with torch.no_grad():
        logits = p.model(row).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, row[0, len(prompt) :, None])[:, 0].numpy()


def requests(count: int, tokens: int = 9) -> list[tuple[list[int], Sampling]]:
    stops = [(), ("ab", "\n\n")]
    return [
        (PROMPTS[i % 6], Sampling(tokens + i % 3, (1.0, 0.0)[i % 5 == 4], stops[i % 2], seed=i))
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["llama-tied-yarn", "gpt2"])
def test_it_passes_the_battery_and_says_what_the_local_engine_says(name: str) -> None:
    p = endless(name)
    local, apart = LocalEngine(p, 4), ApartEngine(p, 4, 1)
    try:
        here, there = (asyncio.run(gathered(e, requests(24))) for e in (local, apart))
        for a, b in zip(here, there, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            assert a.logprobs.tolist() == b.logprobs.tolist()  # to the bit
            assert a.versions.tolist() == b.versions.tolist()
            assert (a.stop, a.usage) == (b.stop, b.usage)
            assert not b.tokens.flags.writeable
        assert len(asyncio.run(check_engine(apart, p))) == 5
        assert apart.cpu_seconds > 0
        assert apart.peak_memory > 2**20
        assert not apart.busy
    finally:
        apart.close()
    assert ended(apart)
    assert apart.cpu_seconds == 0  # the system has counted them


def test_loads_let_requests_finish_or_keep_or_recompute(engine: ApartEngine) -> None:
    sources = {seed: endless(seed=seed) for seed in range(4)}
    asked = [(PROMPTS[i % 6], Sampling(38, seed=i)) for i in range(4)]

    async def play(version: int, in_flight: Any) -> tuple[list[Completion], list[Completion]]:
        await engine.load_weights(sources[0], version)
        early = asyncio.gather(*(engine.sample(*r) for r in asked))
        await engine.checksum()  # its answer comes after they have begun
        load = asyncio.create_task(engine.load_weights(sources[1], version + 1, in_flight))
        await asyncio.sleep(0)
        late = asyncio.gather(*(engine.sample(*r) for r in asked))
        await load
        assert early.done() or in_flight != "finish"
        assert await engine.checksum() == checksum(sources[1].tensors())
        return await early, await late

    early, late = asyncio.run(play(10, "finish"))
    for completions, p, version in ((early, sources[0], 10), (late, sources[1], 11)):
        for (prompt, _), c in zip(asked, completions, strict=True):
            assert set(c.versions.tolist()) == {version}
            np.testing.assert_allclose(c.logprobs, true_logprobs(p, prompt, c.tokens), atol=1e-5)
    for version, in_flight in ((20, "keep"), (30, "recompute")):
        early, _ = asyncio.run(play(version, in_flight))
        for (prompt, _), c in zip(asked, early, strict=True):
            first = int((c.versions == version).sum())
            assert sorted(c.versions.tolist()) == c.versions.tolist()
            assert 0 < first < 38, "the load came while they were sampled"
            before, after = (true_logprobs(sources[s], prompt, c.tokens) for s in (0, 1))
            np.testing.assert_allclose(c.logprobs[:first], before[:first], atol=1e-5)
            apart = np.abs(c.logprobs[first:] - after[first:]).max()
            assert (apart < 1e-5) == (in_flight == "recompute")


class Half:
    """A source that breaks off."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield next(iter(endless(seed=3).tensors()))
        raise TimeoutError("the learner went away")


def test_errors_are_the_engines_own_sentences_and_end_nothing(engine: ApartEngine) -> None:
    async def play() -> None:
        await engine.load_weights(endless(), 40)
        with pytest.raises(UserError, match=r"^the prompt has no tokens"):
            await engine.sample([], Sampling(1))
        with pytest.raises(UserError, match="outside the vocabulary"):
            await engine.sample([10**12], Sampling(1))
        with pytest.raises(ValueError, match=r"^weight versions never go down: 2 after 40") as seen:
            await engine.load_weights(endless(), 2)
        assert "load_weights" in "".join(seen.value.__notes__)
        with pytest.raises(ValueError, match="no tensor called"):
            await engine.load_weights(endless("qwen2"), 41)
        with pytest.raises(TimeoutError, match="went away"):
            await engine.load_weights(Half(), 41)
        assert await engine.checksum() == checksum(endless().tensors())
        said = await engine.sample([3], Sampling(2))
        assert said.versions.tolist() == [40, 40]

    asyncio.run(play())


def test_nobody_waits_any_more(engine: ApartEngine) -> None:
    """Cancelled requests free their rows, and another event loop goes on with the same process."""
    long = [(PROMPTS[i], Sampling(38, seed=i)) for i in range(5)]

    async def play() -> list[Completion]:
        tasks = [asyncio.create_task(engine.sample(*r)) for r in long]
        await engine.checksum()
        for cancelled in (0, 4):  # one that runs, one that queues
            tasks[cancelled].cancel()
        kept = await asyncio.gather(*tasks[1:4])
        assert all(tasks[i].cancelled() for i in (0, 4))
        return kept

    async def abandon() -> None:
        tasks = [asyncio.create_task(engine.sample(*r)) for r in long]
        tasks.append(asyncio.create_task(engine.load_weights(endless(), 50)))
        await asyncio.sleep(0)
        assert engine.busy

    kept = asyncio.run(play())
    asyncio.run(abandon())
    again = asyncio.run(gathered(engine, long))
    assert [c.tokens.tolist() for c in kept] == [c.tokens.tolist() for c in again[1:4]]
    assert not engine.busy
    assert len(asyncio.run(gathered(engine, requests(9)))) == 9


def test_a_process_that_is_killed_is_one_sentence_for_all_who_wait() -> None:
    engine = ApartEngine(endless(), 4, 1)

    async def play() -> list[Any]:
        await engine.checksum()
        assert engine._process is not None
        tasks = [asyncio.create_task(engine.sample([3], Sampling(40, seed=i))) for i in range(9)]
        tasks.append(asyncio.create_task(engine.load_weights(endless(), 1)))
        await asyncio.sleep(0)
        os.kill(engine._process.pid, signal.SIGKILL)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    errors = [e for e in asyncio.run(play()) if not isinstance(e, Completion)]
    assert errors
    assert {type(e) for e in errors} == {UserError}
    assert str(errors[0]).startswith("the process that samples was killed by SIGKILL: if the mach")
    with pytest.raises(UserError, match="was killed by SIGKILL"):
        asyncio.run(engine.sample([3], Sampling(1)))
    assert ended(engine)
    engine.close()


def test_an_engine_that_cannot_open_says_why() -> None:
    engine = ApartEngine(endless(), -1, 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="negative dimensions"):
            asyncio.run(engine.sample([3], Sampling(1)))
    assert ended(engine)


def test_messages_of_any_size_come_in_order_and_together() -> None:
    async def play() -> list[Message]:
        heard, over = list[Message](), asyncio.get_running_loop().create_future()
        here, there = socket.socketpair()
        ours = Wire(here, heard.append, lambda: None)
        theirs = Wire(there, heard.append, lambda: over.set_result(None))
        ours.attach()
        theirs.attach()
        for number in range(50):
            ours.send(("small", number, None))
        assert ours.due
        await asyncio.sleep(0)
        ours.send(("large", 50, b"x" * 10**7))
        while len(heard) < 51:
            await asyncio.sleep(0)
        ours.close()
        await over
        return heard

    heard = asyncio.run(play())
    assert [number for _, number, _ in heard] == list(range(51))
    assert len(heard[50][2]) == 10**7


def test_a_failure_is_raised_as_what_it_was() -> None:
    for error, kind, words in (
        (UserError("lower it"), UserError, "lower it"),
        (RuntimeError("half way"), RuntimeError, "half way"),
        (KeyError("x"), RuntimeError, "KeyError: 'x'"),
    ):
        again = Failure.of(error).error()
        assert type(again) is kind
        assert str(again) == words


def test_threads_are_told_to_an_engine_elsewhere() -> None:
    told = list[int]()
    shared = Threads(4, lambda: True, told.append)
    try:
        seen = asyncio.run(shared.beside(torch.get_num_threads))
        assert (told, seen) == ([2, 4], 2)
    finally:
        torch.set_num_threads(1)


class Groups:
    """A watch: which problems and visits were trained on, in which step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, int, int]] = []

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        played = [(g.problem.id, g.trajectories[0].visit, g.version) for g in groups]
        self.seen += [(step, *of) for of in played]
        return ()


def test_a_stale_run_and_its_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, opens = list[ApartEngine](), Local.apart

    def apart(self: Local, policy: Policy, rows: int, threads: int) -> ApartEngine:
        made.append(opens(self, policy, rows, threads))
        return made[-1]

    monkeypatch.setattr(Local, "apart", apart)
    monkeypatch.setattr(Session, "overlaps", True)
    recipe, before, after = read({**RECIPE, "runs": str(tmp_path)}), Groups(), Groups()
    said = list[str]()
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe, said.append, watches=[before, Interrupt(3)])
    assert [ended(e) for e in made] == [True]
    run = resume_recipe(recipe, said.append, watches=[after])
    assert [ended(e) for e in made] == [True, True]
    assert any("log-probabilities" in line for line in said)
    result, rows = run.result(), run.metrics()
    assert result is not None
    assert result.peak_memory_bytes > made[1].peak_memory > 0
    assert result.cpu_seconds > 0
    kept = [of for of in before.seen if of[0] <= 2]  # the checkpoint's steps
    used = [of[1:3] for of in (*kept, *after.seen)]
    assert len(used) == len(set(used)) == 24
    assert [of[1:3] for of in before.seen if of[0] == 3] == [of[1:3] for of in after.seen][:4]
    assert all(0 <= step - 1 - version <= 1 for step, _, _, version in after.seen)
    assert [row["staleness/max"] <= 1 for row in rows] == [True] * 6
    assert rows[0]["drift/max"] < 1e-4
    assert rows[-1]["ledger/flops/decode"] > 0


def test_synchronous_runs_and_one_thread_stay_in_the_process() -> None:
    assert isinstance(Local(), OpensApart)
    with_one = Session(read(RECIPE), lambda said: None)
    assert isinstance(with_one.engine, LocalEngine)
    with_one.device, with_one.threads.count = "cpu", 2
    assert with_one.overlaps
    with_one.device = "cuda"
    assert not with_one.overlaps


def below(pid: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_run_however_that_ends(tmp_path: Path, sent: signal.Signals) -> None:
    recipe = {
        **RECIPE,
        "runs": str(tmp_path),
        "stop": {"steps": 10**6},
        "check": {"enabled": False},
    }
    code = (
        "import upslope, upslope.session; upslope.session.Session.overlaps = True; "
        f"upslope.train({recipe!r})"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        metrics = tmp_path / "stale" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
            assert run.poll() is None, run.stderr and run.stderr.read().decode()
            time.sleep(0.05)
        (engine,) = below(run.pid)
        os.killpg(run.pid, sent)  # as a terminal does
        _, said = run.communicate(timeout=120)
        for _ in range(600):
            if not Path(f"/proc/{engine}").exists():
                break
            time.sleep(0.05)
        assert not Path(f"/proc/{engine}").exists()
    finally:
        run.kill()
        run.wait()
    assert run.returncode != 0
    if sent == signal.SIGINT:
        assert said.decode().strip().endswith("KeyboardInterrupt")
        assert b"serving" not in said, "the engine's process says nothing of it"
