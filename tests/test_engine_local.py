"""The local engine: honest log-probabilities, stops, batching that changes nothing, loads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from counting import counter
from small_policies import CONTEXT, EOS, FAST, SLOW, WORDS, policy
from upslope.engines.local import LocalEngine
from upslope.models.policy import Policy, checksum
from upslope.types import Completion, Sampling, Usage, UserError

NAMES = [*FAST, *SLOW]
PROMPTS = [[3, 4, 5], [6, 7, 8, 9, 10, 11, 12], [5], [3, 4, 5], [8, 8, 8], [4, 9, 3, 7, 5]]


def endless(name: str = "llama", seed: int = 0) -> Policy:
    p = policy(name, seed)
    p.eos = ()
    return p


async def gathered(
    engine: LocalEngine, requests: Sequence[tuple[list[int], Sampling]]
) -> list[Completion]:
    return await asyncio.gather(*(engine.sample(*request) for request in requests))


def sampled(
    engine: LocalEngine, requests: Sequence[tuple[list[int], Sampling]]
) -> list[Completion]:
    return asyncio.run(gathered(engine, requests))


def true_logprobs(p: Policy, prompt: list[int], tokens: np.ndarray, t: float = 1.0) -> np.ndarray:
    row = torch.tensor([[*prompt, *tokens.tolist()]])
    with torch.no_grad():
        logits = p.model(row).logits[0, len(prompt) - 1 : -1] / (t or 1.0)
    return logits.log_softmax(-1).gather(1, row[0, len(prompt) :, None])[:, 0].numpy()


def same(a: Completion, b: Completion) -> None:
    assert a.tokens.tolist() == b.tokens.tolist()
    assert a.stop == b.stop
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_logprobs_are_the_policys_at_each_requests_temperature(name: str) -> None:
    p = endless(name)
    engine = LocalEngine(p)
    assert engine.fast is (name in FAST)
    settings = [Sampling(12, t, seed=i) for i, t in enumerate((1.0, 0.0, 0.6, 1.7, 1.0, 0.0))]
    requests = list(zip(PROMPTS, settings, strict=True))
    for (prompt, s), c in zip(requests, sampled(engine, requests), strict=True):
        true = true_logprobs(p, prompt, c.tokens, s.temperature)
        np.testing.assert_allclose(c.logprobs, true, atol=1e-5)
        assert len(c.tokens) == 12
        assert c.stop == "length"


@pytest.mark.parametrize("name", NAMES)
def test_greedy_equals_transformers_and_itself(name: str) -> None:
    p = policy(name)
    p.model.generation_config.eos_token_id = list(EOS)
    for prompt in PROMPTS[:3]:
        (c,) = sampled(LocalEngine(p), [(prompt, Sampling(16, 0.0))])
        (again,) = sampled(LocalEngine(p), [(prompt, Sampling(16, 0.0, seed=9))])
        rows = torch.tensor([prompt])
        mask = torch.ones_like(rows)
        own = p.model.generate(rows, attention_mask=mask, max_new_tokens=16, do_sample=False)
        assert c.tokens.tolist() == own[0, len(prompt) :].tolist()
        same(c, again)


def test_samples_follow_the_policys_distribution() -> None:
    p, count = policy("llama"), 4000
    engine = LocalEngine(p, rows=512)
    out = sampled(engine, [([3, 4, 5], Sampling(1, 1.5, seed=i)) for i in range(count)])
    with torch.no_grad():
        logits = p.model(torch.tensor([[3, 4, 5]])).logits[0, -1]
    expected = (logits / 1.5).softmax(-1).numpy() * count
    seen = np.bincount([c.tokens[0] for c in out], minlength=len(WORDS))
    common = expected >= 5
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    assert statistic < common.sum() + 4 * (2 * common.sum()) ** 0.5


def test_draws_come_from_the_requests_own_seed() -> None:
    p = endless()
    (c,) = sampled(LocalEngine(p), [([3, 4], Sampling(20, seed=2**62 + 7))])
    uniform = np.random.Generator(np.random.Philox(key=2**62 + 7)).random(20)
    row = torch.tensor([[3, 4, *c.tokens.tolist()]])
    with torch.no_grad():
        probability = p.model(row).logits[0, 1:-1].double().softmax(-1)
    tokens = (probability.cumsum(-1) > torch.from_numpy(uniform)[:, None]).int().argmax(-1)
    assert c.tokens.tolist() == tokens.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_request_alone_equals_itself_amid_others(name: str) -> None:
    p = policy(name)
    request = ([4, 5, 6, 7], Sampling(20, seed=11))
    (alone,) = sampled(LocalEngine(p), [request])
    others = [([3 + (i + j) % 9 for j in range(1 + i)], Sampling(24, seed=i)) for i in range(7)]
    same(alone, sampled(LocalEngine(p), [*others[:3], request, *others[3:]])[3])
    same(alone, sampled(LocalEngine(p), [request, *[(request[0], Sampling(9, seed=1))] * 3])[0])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_more_requests_than_rows_queue_and_change_nothing(name: str, rows: int) -> None:
    p = policy(name)
    requests = [(PROMPTS[i % 6], Sampling(1 + i % 7, seed=i)) for i in range(20)]
    requests += [([3, 4, 5], Sampling(6, seed=100 + i)) for i in range(7)]  # a group over the rows
    few = sampled(LocalEngine(p, rows=rows), requests)
    for a, b in zip(few, sampled(LocalEngine(p), requests), strict=True):
        same(a, b)


@pytest.mark.parametrize("name", ["llama", "mistral-windowed"])
def test_rows_join_and_leave_a_running_batch(name: str) -> None:
    p = endless(name)
    requests = [(PROMPTS[i % 6], Sampling(2 + 5 * (i % 4), seed=i)) for i in range(12)]

    async def staggered() -> list[Completion]:
        engine = LocalEngine(p)
        tasks = []
        for request in requests:
            tasks.append(asyncio.create_task(engine.sample(*request)))
            for _ in range(2):
                await asyncio.sleep(0)
        assert sum(t.done() for t in tasks) not in (0, len(tasks))
        return await asyncio.gather(*tasks)

    for a, request in zip(asyncio.run(staggered()), requests, strict=True):
        same(a, sampled(LocalEngine(p), [request])[0])


def test_every_end_token_ends_a_reply_and_belongs_to_it() -> None:
    engine, ends = LocalEngine(policy("qwen2")), set()
    for c in sampled(engine, [(PROMPTS[1], Sampling(40, 1.3, seed=i)) for i in range(40)]):
        assert not set(EOS) & set(c.tokens[:-1].tolist())
        assert (c.stop == "stop") == (c.tokens[-1] in EOS)
        ends.add(int(c.tokens[-1]))
    assert set(EOS) <= ends


def test_stop_strings_end_a_reply_at_the_token_that_completes_them() -> None:
    p = endless("llama-tied-yarn")
    engine = LocalEngine(p)
    stops = [("ab",), ("bc", "\n\n"), ("c d",), ("d",), (" ",), ("e\n",), ("hg",), ("never seen",)]
    requests = [([3, 4], Sampling(30, 1.5, seed=i)) for i in range(40)]
    free = sampled(engine, requests)
    spanning = inside = 0
    for stop in stops:
        stopping = [(prompt, Sampling(30, 1.5, stop, s.seed)) for prompt, s in requests]
        for whole, cut in zip(free, sampled(engine, stopping), strict=True):
            words = [WORDS[t] for t in whole.tokens]
            ends = [n for n in range(1, 31) if any(s in "".join(words[:n]) for s in stop)]
            end = ends[0] if ends else 30
            assert cut.tokens.tolist() == whole.tokens[:end].tolist()
            assert cut.stop == ("stop" if ends else "length")
            spanning += bool(ends) and not any(s in words[end - 1] for s in stop)
            inside += bool(ends) and any(s in words[end - 1] != s for s in stop)
    assert spanning > 5
    assert inside > 5


def test_the_context_cuts_replies_and_refuses_prompts_that_fill_it() -> None:
    p = endless()
    long = [3 + i % 9 for i in range(CONTEXT - 3)]
    (c,) = sampled(LocalEngine(p), [(long, Sampling(100))])
    assert len(c.tokens) == 3
    assert c.stop == "length"
    np.testing.assert_allclose(c.logprobs, true_logprobs(p, long, c.tokens), atol=1e-5)
    with pytest.raises(UserError, match="48 tokens, which leaves no room"):
        sampled(LocalEngine(p), [([*long, 3, 3, 3], Sampling(1))])


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([], Sampling(1), "no tokens"),
        ([len(WORDS)], Sampling(1), "outside the vocabulary"),
        ([-1], Sampling(1), "outside the vocabulary"),
        ([3], Sampling(0), "max_tokens is 0"),
        ([3], Sampling(1, -1.0), "temperature is -1.0"),
        ([3], Sampling(1, float("nan")), "temperature is nan"),
    ],
)
def test_misuse_is_one_sentence(prompt: list[int], sampling: Sampling, message: str) -> None:
    engine = LocalEngine(policy("llama"))
    with pytest.raises(UserError, match=message):
        sampled(engine, [(prompt, sampling)])
    assert len(sampled(engine, [([3], Sampling(1))])) == 1


@pytest.mark.parametrize("name", [*FAST, "gpt2"])
def test_usage_adds_up_to_the_work_a_flop_counter_sees(name: str) -> None:
    p = policy(name)
    engine = LocalEngine(p, rows=9)
    requests = [(PROMPTS[i % 6], Sampling(3 + i % 11, seed=i)) for i in range(18)]
    with counter() as seen:
        out = sampled(engine, requests)
    total = sum((c.usage for c in out), Usage())
    assert total.prefill_flops + total.decode_flops == pytest.approx(engine.flops, rel=1e-9)
    assert engine.flops == pytest.approx(seen.get_total_flops(), rel=0.02)
    assert total.decoded == sum(len(c.tokens) for c in out)


def test_equal_prompts_admitted_together_are_computed_once() -> None:
    engine = LocalEngine(endless())
    prompts = [[3, 4, 5], [6, 7], [3, 4, 5], [6, 7], [3, 4, 5]]
    out = sampled(engine, [(prompt, Sampling(4, seed=i)) for i, prompt in enumerate(prompts)])
    assert [c.usage.computed for c in out] == [3, 2, 0, 0, 0]
    assert [c.usage.cached for c in out] == [0, 0, 3, 2, 3]
    (late,) = sampled(engine, [([3, 4, 5], Sampling(4))])
    assert (late.usage.computed, late.usage.cached) == (3, 0)


async def until_sampled(engine: LocalEngine, steps: int) -> None:
    for _ in range(steps + 3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_finish_lets_earlier_requests_end_with_their_weights(name: str) -> None:
    old, new = endless(name), endless(name, seed=1)
    engine = LocalEngine(old, rows=4)
    requests = [(PROMPTS[i % 6], Sampling(6 + i, seed=i)) for i in range(6)]

    async def play() -> tuple[list[Completion], list[Completion]]:
        early = asyncio.gather(*(engine.sample(*r) for r in requests))
        await until_sampled(engine, 3)
        load = asyncio.create_task(engine.load_weights(new, 7))
        await asyncio.sleep(0)
        late = asyncio.gather(*(engine.sample(*r) for r in requests))
        await load
        assert not late.done()
        assert early.done()
        assert await engine.checksum() == checksum(new.tensors())
        return await early, await late

    early, late = asyncio.run(play())
    for completions, p, version in ((early, old, 0), (late, new, 7)):
        for (prompt, _), c in zip(requests, completions, strict=True):
            assert set(c.versions.tolist()) == {version}
            true = true_logprobs(p, prompt, c.tokens)
            np.testing.assert_allclose(c.logprobs, true, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("in_flight", ["keep", "recompute"])
def test_loads_in_flight_show_in_versions_and_only_recompute_forgets(
    name: str, in_flight: str
) -> None:
    old, new = endless(name), endless(name, seed=1)
    engine = LocalEngine(old, rows=5)
    requests = [(PROMPTS[i % 6], Sampling(10 + i, seed=i)) for i in range(7)]

    async def play() -> list[Completion]:
        out = asyncio.gather(*(engine.sample(*r) for r in requests))
        await until_sampled(engine, 4)
        await engine.load_weights(new, 1, "keep" if in_flight == "keep" else "recompute")
        return await out

    out = asyncio.run(play())
    total = sum((c.usage for c in out), Usage())
    assert total.prefill_flops + total.decode_flops == pytest.approx(engine.flops, rel=1e-9)
    crossed = 0
    for (prompt, _), c in zip(requests, out, strict=True):
        first = int((c.versions == 0).sum())
        assert sorted(c.versions.tolist()) == c.versions.tolist()
        before, after = (true_logprobs(p, prompt, c.tokens) for p in (old, new))
        np.testing.assert_allclose(c.logprobs[:first], before[:first], atol=1e-5)
        if in_flight == "recompute" or first == 0:
            np.testing.assert_allclose(c.logprobs[first:], after[first:], atol=1e-5)
        elif first < len(c.tokens):
            assert np.abs(c.logprobs[first:] - after[first:]).max() > 1e-3
        crossed += 0 < first < len(c.tokens)
    assert crossed == 5


def test_versions_never_go_down_and_loads_change_the_checksum() -> None:
    p, q = endless(), endless(seed=1)
    engine = LocalEngine(p)
    assert asyncio.run(engine.checksum()) == checksum(p.tensors())
    asyncio.run(engine.load_weights(q, 3))
    assert asyncio.run(engine.checksum()) == checksum(q.tensors()) != checksum(p.tensors())
    with pytest.raises(ValueError, match="never go down: 2 after 3"):
        asyncio.run(engine.load_weights(p, 2))
    assert sampled(engine, [([3], Sampling(2))])[0].versions.tolist() == [3, 3]


class Half:
    """A source that breaks off."""

    def __init__(self, p: Policy) -> None:
        self.policy = p

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield next(iter(self.policy.tensors()))
        raise TimeoutError("the learner went away")


def test_a_load_that_breaks_off_is_raised_and_must_be_repeated() -> None:
    p, q = policy("llama"), policy("llama", seed=1)
    engine = LocalEngine(p)

    async def play() -> list[Completion | BaseException]:
        early = [asyncio.create_task(engine.sample([3, 4], Sampling(5, seed=i))) for i in range(3)]
        await asyncio.sleep(0)
        load = engine.load_weights(Half(q), 1)
        return await asyncio.gather(*early, load, return_exceptions=True)

    *early, error = asyncio.run(play())
    assert all(isinstance(c, Completion) for c in early)
    assert isinstance(error, TimeoutError)
    with pytest.raises(RuntimeError, match="failed half way"):
        sampled(engine, [([3], Sampling(1))])
    asyncio.run(engine.load_weights(p, 1))
    same(sampled(engine, [([3, 4], Sampling(5))])[0], early[0])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_cancelled_requests_free_their_rows(name: str) -> None:
    p = endless(name)
    engine = LocalEngine(p, rows=2)
    requests = [(PROMPTS[i], Sampling(30, seed=i)) for i in range(5)]

    async def play() -> list[Completion]:
        tasks = [asyncio.create_task(engine.sample(*r)) for r in requests]
        await until_sampled(engine, 3)
        for cancelled in (0, 3):  # one that runs, one that queues
            tasks[cancelled].cancel()
        kept = await asyncio.gather(*(tasks[i] for i in (1, 2, 4)))
        assert tasks[0].cancelled()
        assert tasks[3].cancelled()
        return kept

    for i, c in zip((1, 2, 4), asyncio.run(play()), strict=True):
        same(c, sampled(LocalEngine(p), [requests[i]])[0])
    assert len(sampled(engine, requests)) == 5


def test_a_group_asked_for_at_once_is_what_single_requests_are() -> None:
    p = policy("llama")  # whose replies end when they want to, so that some wait for the others
    asked = [Sampling(12, t, seed=s) for s, t in enumerate((1.0, 0.0, 1.5, 1.0))]

    async def play() -> list[list[Completion]]:
        engine = LocalEngine(p, rows=3)
        calls = (engine.sample_group(prompt, asked) for prompt in PROMPTS)
        return await asyncio.gather(*calls)

    for prompt, said in zip(PROMPTS, asyncio.run(play()), strict=True):
        for one, completion in zip(asked, said, strict=True):
            same(completion, sampled(LocalEngine(p), [(prompt, one)])[0])
    assert asyncio.run(LocalEngine(p).sample_group([3], ())) == []


def test_a_cancelled_group_frees_its_rows_also_where_some_have_ended() -> None:
    p = endless()
    engine = LocalEngine(p, rows=2)
    asked = [Sampling(limit, seed=limit) for limit in (2, 30, 30)]

    async def play() -> list[Completion]:
        group = asyncio.create_task(engine.sample_group([3, 4], asked))
        other = asyncio.create_task(engine.sample_group([5], asked))
        await until_sampled(engine, 3)
        group.cancel()
        return await other

    for one, completion in zip(asked, asyncio.run(play()), strict=True):
        same(completion, sampled(LocalEngine(p), [([5], one)])[0])
    assert engine._running.held == 0
    assert not engine._running.requests


def test_a_cancelled_load_lets_the_requests_behind_it_through() -> None:
    p = endless()
    engine = LocalEngine(p)

    async def play() -> Completion:
        early = asyncio.create_task(engine.sample([3, 4], Sampling(8)))
        await until_sampled(engine, 2)
        load = asyncio.create_task(engine.load_weights(policy("llama", seed=1), 1))
        await asyncio.sleep(0)
        late = asyncio.create_task(engine.sample([3, 4], Sampling(8)))
        await asyncio.sleep(0)
        load.cancel()
        await early
        return await late

    assert asyncio.run(play()).versions.tolist() == [0] * 8


def test_an_error_in_a_step_reaches_everyone_who_waits() -> None:
    p, broken = endless(), endless(seed=1)
    engine = LocalEngine(p, rows=2)
    with torch.no_grad():
        broken.model.model.norm.weight[0] = float("nan")

    async def play() -> list[Completion | BaseException]:
        tasks = [asyncio.create_task(engine.sample(PROMPTS[i], Sampling(9))) for i in range(4)]
        await until_sampled(engine, 3)
        tasks.append(asyncio.create_task(engine.load_weights(p, 2)))
        await engine.load_weights(broken, 1, "keep")
        return await asyncio.gather(*tasks, return_exceptions=True)

    for outcome in asyncio.run(play()):
        assert isinstance(outcome, ArithmeticError)
    asyncio.run(engine.load_weights(p, 2))
    same(
        sampled(engine, [(PROMPTS[0], Sampling(9))])[0],
        sampled(LocalEngine(p), [(PROMPTS[0], Sampling(9))])[0],
    )


def test_others_run_between_two_steps() -> None:
    engine, beats = LocalEngine(endless()), []

    async def play() -> None:
        async def heart() -> None:
            while True:
                beats.append(0)
                await asyncio.sleep(0)

        task = asyncio.create_task(heart())
        await engine.sample([3], Sampling(25))
        task.cancel()

    asyncio.run(play())
    assert len(beats) >= 25


def test_a_loop_that_ended_early_leaves_nothing_behind() -> None:
    p = endless()
    engine = LocalEngine(p, rows=3)

    async def abandon() -> None:
        asyncio.get_running_loop().call_soon(asyncio.create_task, engine.sample([3], Sampling(40)))
        await until_sampled(engine, 5)

    asyncio.run(abandon())
    requests = [(PROMPTS[i], Sampling(5, seed=i)) for i in range(4)]
    for a, b in zip(sampled(engine, requests), sampled(LocalEngine(p), requests), strict=True):
        same(a, b)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("tokens", [1, 30, 70])
def test_requests_beyond_the_memory_queue_and_change_nothing(name: str, tokens: int) -> None:
    p = policy(name)
    requests = [(PROMPTS[i % 6], Sampling(1 + i % 7, seed=i)) for i in range(20)]
    requests += [([3, 4, 5], Sampling(6, seed=100 + i)) for i in range(9)]
    engine = LocalEngine(p, rows=12, budget=tokens * p.token_bytes)
    asked = [engine.sample(*request) for request in requests]

    async def play() -> tuple[list[Completion], int]:
        tasks = [asyncio.create_task(one) for one in asked]
        most = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            running = engine._running
            most = max(most, running.held if len(running.requests) > 1 else 0)
        return [await task for task in tasks], most

    out, most = asyncio.run(play())
    assert most <= tokens * p.token_bytes
    assert (most > 0) == (tokens > 1)
    assert engine._running.held == 0
    for a, b in zip(out, sampled(LocalEngine(p), requests), strict=True):
        same(a, b)


def test_a_request_that_no_memory_could_hold_says_what_to_lower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p = policy("llama")
    monkeypatch.setattr("upslope.machine.memory", lambda: 20 * p.token_bytes)
    engine = LocalEngine(p)
    sampled(engine, [([3, 4, 5], Sampling(17))])
    with pytest.raises(UserError, match="lower max_tokens or shorten the prompt"):
        sampled(engine, [([3, 4, 5], Sampling(18))])
