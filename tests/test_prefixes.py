"""What later prompts begin with: found whole, computed once, bounded, forgotten in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from counting import counter
from small_policies import FAST, WORDS, policy
from upslope.engines.local import LocalEngine
from upslope.models.decoder import Decoder
from upslope.models.policy import Policy
from upslope.models.prefixes import Prefix, Prefixes
from upslope.types import Completion, Sampling, Usage

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
ROOM = 2**20
SYSTEM = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def expected(p: Policy, row: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        return p.model(torch.tensor([list(row)])).logits[0, -1]


def flat(logits: torch.Tensor) -> torch.Tensor:
    """[rows, vocabulary], out of blocks."""
    return logits.flatten(1)[:, : len(WORDS)]


def entry(tokens: int, passing: bool = False) -> Prefix:
    """1 layer, 1 head of size 2: 16 bytes a token."""
    return Prefix(torch.ones(1, 1, tokens, 2), torch.ones(1, 1, tokens, 2), passing)


def test_the_longest_entry_that_a_prompt_continues_is_found() -> None:
    prefixes = Prefixes(10_000)
    for tokens in ((3, 4), (3, 4, 5, 6), (3, 9, 9)):
        prefixes.keep(tokens, entry(len(tokens)))
    assert prefixes.known((3, 4, 5, 6, 7)) == 4
    assert prefixes.known((3, 4, 5, 6)) == 2  # nothing would be left to compute
    assert prefixes.known((3, 4, 5, 7, 8)) == 2
    assert prefixes.known((3, 5)) == prefixes.known((3,)) == 0
    assert prefixes.take((4, 3)) is None
    prefixes.clear()
    assert prefixes.known((3, 4, 5)) == 0


def test_memory_is_bounded_and_what_had_its_use_goes_first() -> None:
    prefixes = Prefixes(16 * 10)
    prefixes.keep((1, 1, 1, 1), entry(4))
    prefixes.keep((2, 2, 2), entry(3, passing=True))
    prefixes.keep((3, 3, 3), entry(3))
    assert prefixes.nbytes == 160
    assert prefixes.take((2, 2, 2, 5)) is not None
    assert prefixes.take((3, 3, 3, 5)) is not None
    prefixes.keep((4, 4), entry(2))  # the row that was continued makes room
    known = [prefixes.known((n,) * 5) for n in (1, 2, 3, 4)]
    assert known == [4, 3, 0, 2]
    prefixes.keep((5,) * 11, entry(11))  # more than there is room for
    assert prefixes.nbytes == 0


def test_what_prompts_have_in_common_is_forgotten_when_nobody_waits() -> None:
    prefixes = Prefixes(10_000)
    prefixes.keep((1, 1), entry(2, passing=True))
    prefixes.keep((2, 2), entry(2))
    prefixes.rest()
    assert (prefixes.known((1, 1, 1)), prefixes.known((2, 2, 2))) == (0, 2)


@pytest.mark.parametrize("name", FAST)
def test_rows_go_on_from_what_is_stored_with_transformers_numbers(name: str) -> None:
    p = policy(name)
    d = Decoder(p, ROOM)
    rng = np.random.default_rng(0)
    rows = [[3, 4, 5, 6, 7], [3, 4, 5, 6, 7], [8, 9]]

    def fed(times: int) -> None:
        for _ in range(times):
            for row in rows:
                row.append(int(rng.integers(3, len(WORDS))))
            logits = flat(d.step(torch.tensor([row[-1] for row in rows])))
            for got, row in zip(logits, rows, strict=True):
                torch.testing.assert_close(got, expected(p, row), **CLOSE)

    d.prefill([rows[0], rows[2]], [0, 0, 1])
    fed(4)
    d.remember(1, rows[1])
    d.remember(2, rows[2])
    long, short = [*rows[1], 5, 6, 7], [*rows[2], 4]
    fed(1)
    logits = flat(d.prefill([[9, 8], long, short], [0, 1, 1, 2]))
    assert d.known == [0, 9, 6]
    for got, row in zip(logits, ([9, 8], long, short), strict=True):
        torch.testing.assert_close(got, expected(p, row), **CLOSE)
    rows += [[9, 8], list(long), list(long), list(short)]
    fed(6)
    d.load(p.tensors())
    d.clear()
    torch.testing.assert_close(flat(d.prefill([long], [0]))[0], expected(p, long), **CLOSE)
    assert d.known == [0]  # other weights: nothing is known


def test_a_single_new_token_is_not_a_product_of_one_row() -> None:
    p = policy("llama")
    d = Decoder(p, ROOM)
    d.prefill([[3, 4, 5, 6]], [0])
    d.remember(0, [3, 4, 5, 6])
    spent = d.flops
    own = flat(d.prefill([[3, 4, 5, 6, 7]], [0]))[0]
    assert d.known == [4]
    assert d.flops - spent == round(p.cost.forward(2, 2 * 6, 2))
    torch.testing.assert_close(own, expected(p, [3, 4, 5, 6, 7]), **CLOSE)


def endless(name: str = "llama", seed: int = 0) -> Policy:
    p = policy(name, seed)
    p.eos = ()
    return p


async def episode(
    engine: LocalEngine, prompt: list[int], number: int, continues: bool, turns: int = 4
) -> list[Completion]:
    """A play whose env says two tokens after each turn."""
    said = []
    for turn in range(turns):
        seed, heat = 100 * number + turn, float(number % 2)
        more = continues and turn + 1 < turns
        said.append(await engine.sample(prompt, Sampling(2 + number % 3, heat, (), seed, more)))
        prompt = [*prompt, *said[-1].tokens.tolist(), 3 + turn, 4]
    return said


def played(engine: LocalEngine, continues: bool, plays: int = 6) -> list[list[Completion]]:
    async def together() -> list[list[Completion]]:
        prompts = [[*SYSTEM, 3 + n // 2] for n in range(plays)]
        each = [episode(engine, p, n, continues) for n, p in enumerate(prompts)]
        return await asyncio.gather(*each)

    return asyncio.run(together())


@pytest.mark.parametrize("name", ["llama", "qwen3-moe", "gpt2"])
@pytest.mark.parametrize("rows", [3, 16])
def test_turns_go_on_without_computing_the_past_again(name: str, rows: int) -> None:
    p = endless(name)
    fresh, kept = LocalEngine(p, rows), LocalEngine(p, rows)
    plain = played(fresh, continues=False)
    with counter() as seen:
        turns = played(kept, continues=True)
    for one, other in zip(plain, turns, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            assert a.usage.computed + a.usage.cached == b.usage.computed + b.usage.cached
    total = sum((c.usage for play in turns for c in play), Usage())
    assert total.prefill_flops + total.decode_flops == pytest.approx(kept.flops, rel=1e-9)
    assert kept.flops == pytest.approx(seen.get_total_flops(), rel=0.02)
    later = [c.usage.computed for play in turns for c in play[1:]]
    if fresh.fast:
        assert max(later) <= 3  # the last sampled token and the env's two
        assert kept.flops < 0.7 * fresh.flops
    else:
        assert kept.flops == fresh.flops


def test_a_starts_keys_serve_later_passes_while_the_engine_is_busy() -> None:
    engine = LocalEngine(endless(), rows=2)
    requests = [([*SYSTEM, 3 + n, 4], Sampling(3, seed=n)) for n in range(8)]

    async def all_of() -> list[Completion]:
        return await asyncio.gather(*(engine.sample(*request) for request in requests))

    first, second = asyncio.run(all_of()), asyncio.run(all_of())
    assert [c.usage.computed for c in first] == [12, *[2] * 7]
    assert [c.usage for c in second] == [c.usage for c in first]  # nothing is left of it
    for (prompt, _), a, b in zip(requests, first, second, strict=True):
        assert np.array_equal(a.logprobs, b.logprobs)
        row = torch.tensor([[*prompt, *a.tokens.tolist()]])
        logprobs = engine._policy.model(row).logits[0].log_softmax(-1)
        true = [float(logprobs[11 + i, t].detach()) for i, t in enumerate(a.tokens)]
        np.testing.assert_allclose(a.logprobs, true, atol=1e-5)


@pytest.mark.parametrize("in_flight", ["finish", "keep"])
def test_nothing_is_kept_that_other_weights_computed(in_flight: str) -> None:
    engine = LocalEngine(endless())

    async def play() -> tuple[list[int], Completion]:
        prompt, sampling = [3, 4, 5, 6], Sampling(8, continues=True)
        waiting = asyncio.create_task(engine.sample(prompt, sampling))
        for _ in range(6):
            await asyncio.sleep(0)
        await engine.load_weights(endless(seed=1), 1, in_flight)
        row = [*prompt, *(await waiting).tokens.tolist(), 7]
        return row, await engine.sample(row, Sampling(1))

    row, said = asyncio.run(play())
    assert (said.usage.computed, said.usage.cached) == (len(row), 0)
    logprobs = expected(endless(seed=1), row).log_softmax(-1)
    assert said.logprobs[0] == pytest.approx(float(logprobs[said.tokens[0]]), abs=1e-5)


def test_answers_that_nothing_continues_are_not_kept() -> None:
    engine = LocalEngine(endless())
    assert isinstance(engine._model, Decoder)
    played(engine, continues=False)
    assert engine._model._prefixes.nbytes == 0
    played(engine, continues=True)
    assert engine._model._prefixes.nbytes > 0
    small = LocalEngine(endless(), prefixes=0)
    assert played(small, continues=True)[0][3].usage.cached == 0
