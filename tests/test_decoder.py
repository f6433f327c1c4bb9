"""The fast and the fallback forward pass against transformers' own, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from small_policies import CONFIGS, FAST, SLOW, SPARSE, WORDS, policy
from upslope.models.cached import Cached
from upslope.models.decoder import MOST_COHORTS, PASS_TOKENS, Decoder
from upslope.models.feedforward import Dense, Experts
from upslope.models.fused import fits
from upslope.models.policy import Policy, checksum

NAMES = [*FAST, *SLOW]


def decoder(p: Policy) -> Decoder | Cached:
    return Decoder(p) if fits(p.model) else Cached(p)


def expected(p: Policy, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return p.model(torch.tensor([row])).logits[0, -1]


def words(logits: torch.Tensor) -> torch.Tensor:
    """[n, vocabulary], without what fills up its last block."""
    return logits.flatten(1)[:, : len(WORDS)]


class Rows:
    """Plays token rows through a decoder and holds every logit against transformers' own."""

    def __init__(self, p: Policy) -> None:
        self.policy, self.decoder = p, decoder(p)
        self.rows: list[list[int]] = []
        self.rng = np.random.default_rng(0)

    def join(self, prompts: list[list[int]], owner: list[int]) -> None:
        for chosen in self.decoder.passes(prompts):
            mine = [(new, i) for new, p in enumerate(chosen) for i in owner if i == p]
            logits = self.decoder.prefill([prompts[i] for i in chosen], [new for new, _ in mine])
            for row, i in zip(words(logits), chosen, strict=True):
                torch.testing.assert_close(row, expected(self.policy, prompts[i]), **CLOSE)
            self.rows += [list(prompts[i]) for _, i in mine]
        self.leave(np.ones(len(self.rows), dtype=bool))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            for row in self.rows:
                row.append(int(self.rng.integers(3, len(WORDS))))
            logits = self.decoder.step(torch.tensor([row[-1] for row in self.rows]))
            for got, row in zip(words(logits), self.rows, strict=True):
                torch.testing.assert_close(got, expected(self.policy, row), **CLOSE)

    def leave(self, alive: np.ndarray) -> None:
        order = self.decoder.keep(alive)
        assert sorted(order.tolist()) == np.flatnonzero(alive).tolist()
        self.rows = [self.rows[i] for i in order]


CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_transformers_as_rows_join_and_leave(name: str) -> None:
    rows = Rows(policy(name))
    rows.join([[3], [5, 6, 7, 8, 9], [4, 5, 6]], [0, 0, 1, 1, 1, 2])
    rows.step(3)
    rows.join([[7, 8, 9, 10, 11, 12, 13]], [0, 0])
    rows.step(2)
    rows.leave(np.arange(8) % 3 != 1)
    rows.step(2)
    rows.leave(np.array([False] * (len(rows.rows) - 1) + [True]))
    rows.step(2)
    rows.join([[9, 9, 9]], [0])
    rows.step(1)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_merged_cohorts_and_long_rows_keep_their_numbers(name: str) -> None:
    rows = Rows(policy(name))
    for first in range(MOST_COHORTS + 4):
        prompt = [3 + (first + i) % 12 for i in range(1 + first % 5)]
        rows.join([prompt, [*prompt, 4]], [0] * (1 + first % 3) + [1])
        rows.step()
        rows.leave(np.arange(len(rows.rows)) % 7 != 3)
    assert isinstance(rows.decoder, Decoder)
    assert len(rows.decoder._cohorts) <= MOST_COHORTS
    rows.leave(np.arange(len(rows.rows)) % 4 == 0)
    rows.step(24)


@pytest.mark.parametrize("name", FAST)
def test_a_start_that_all_prompts_share_is_computed_once(name: str) -> None:
    start = list(range(3, 14))
    prompts = [[*start, 5, 4], [*start, 6, 4, 7, 8], [*start, 5]]
    apart = Rows(policy(name))
    for prompt in prompts:
        apart.join([prompt], [0])
    play = Rows(policy(name))
    play.join(prompts, [0, 0, 1, 2])
    assert play.decoder.known == [0, len(start), len(start)]
    assert play.decoder.flops < 0.7 * apart.decoder.flops
    play.step(2)
    play.leave(np.array([True, False, True, True]))
    play.join([[3, 4, 5], [4, 3]], [0, 1])
    assert play.decoder.known == [0, 0]
    play.step(2)


def test_only_known_shapes_take_the_fast_path() -> None:
    assert all(fits(policy(name).model) for name in FAST)
    assert not any(fits(policy(name).model) for name in SLOW)
    p = policy("qwen2")
    p.model.config.layer_types = ["full_attention", "sliding_attention"]
    assert not fits(p.model)
    p = policy("mixtral")
    p.model.config.sliding_window = 6
    assert not fits(p.model)
    p = policy("olmoe")
    p.model.config.clip_qkv = 1.0
    assert not fits(p.model)
    p = policy("llama")
    p.model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert not fits(p.model)
    p = policy("llama")
    p.model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(WORDS)))
    assert not fits(p.model)


def test_a_packed_policy_is_still_decoded_by_the_fallback() -> None:
    from upslope.models.logprobs import prepare

    p = policy("gemma")
    prepare(p)
    assert p.packs
    rows = Rows(p)
    p.model.set_attn_implementation("sdpa")  # for the expected values only
    rows.join([[4, 5, 6]], [0, 0])
    rows.step(2)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", NAMES)
def test_checksum_is_the_policys_and_follows_every_number(name: str) -> None:
    p = policy(name)
    d = decoder(p)
    assert checksum(d.tensors()) == checksum(p.tensors())
    for _, tensor in p.tensors():
        tensor.view(-1)[-1] += 0.5
        assert checksum(d.tensors()) != checksum(p.tensors())
        d.load(p.tensors())
        assert checksum(d.tensors()) == checksum(p.tensors())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_loading_is_in_place_and_refuses_what_does_not_correspond(name: str) -> None:
    p, q = policy(name), policy(name, seed=1)
    d = decoder(p)
    places = [t.data_ptr() for _, t in d.tensors()]
    d.load(reversed(list(q.tensors())))
    assert places == [t.data_ptr() for _, t in d.tensors()]
    logits = words(d.prefill([[3, 4, 5]], [0]))
    torch.testing.assert_close(logits[0], expected(q, [3, 4, 5]), **CLOSE)
    tensors = dict(q.tensors())
    first = next(iter(tensors))
    with pytest.raises(ValueError, match=f"no tensor came for '{first}'"):
        d.load((n, t) for n, t in tensors.items() if n != first)
    with pytest.raises(ValueError, match="no tensor called 'other'"):
        d.load([("other", tensors[first])])
    with pytest.raises(ValueError, match="has shape"):
        d.load([(first, tensors[first][:1])])


@pytest.mark.parametrize("name", ["llama", *SPARSE])
def test_a_row_does_not_depend_on_the_rows_beside_it(name: str) -> None:
    p = policy(name)
    prompt, fed = [4, 5, 6, 7], [8, 9, 10]

    def run(others: list[list[int]]) -> list[torch.Tensor]:
        d = Decoder(p)
        out = [d.prefill([prompt, *others], range(1 + len(others)))[0]]
        for token in fed:
            out.append(d.step(torch.tensor([token] + [3] * len(others)))[0])
        return out

    for others in ([[5] * 4], [[5, 6, 7, 8], [9, 9, 9, 9], [3, 4, 3, 4]]):
        for alone, amid in zip(run([]), run(others), strict=True):
            torch.testing.assert_close(alone, amid, atol=2e-6, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
def test_experts_give_a_row_the_same_bits_whichever_rows_take_them(shared: bool) -> None:
    torch.manual_seed(0)
    hidden, wide, count, rows = 24, 20, 5, 40
    router, gate_up = torch.randn(hidden, count + shared), torch.randn(count, 2 * wide, hidden)
    down = torch.randn(count, hidden, wide)
    block = Dense(torch.randn(1, hidden, 2 * wide), torch.randn(wide, hidden))
    experts = Experts(router, gate_up, down, block if shared else None, most=2, normed=True)
    x, h = torch.randn(rows, hidden), torch.randn(rows, hidden)
    whole = experts(x, h)
    for n in range(2, rows):
        assert torch.equal(experts(x[:n], h[:n]), whole[:n])
    assert experts.padding > 0
    weights, chosen = experts.choose((h @ router)[:, :count])
    for row, own in enumerate(h):
        want = x[row].clone()
        for weight, expert in zip(weights[row], chosen[row], strict=True):
            gate, up = (gate_up[expert] @ own).chunk(2)
            want += weight * (down[expert] @ (torch.nn.functional.silu(gate) * up))
        if shared:
            gate, up = (own @ block.gate_up[0]).chunk(2)
            want += (own @ router[:, -1]).sigmoid() * (
                torch.nn.functional.silu(gate) * up @ block.down
            )
        torch.testing.assert_close(whole[row], want, atol=1e-3, rtol=1e-4)


def test_bfloat16_weights_give_float32_logits() -> None:
    p = policy("llama")
    p.model.to(torch.bfloat16)
    d = Decoder(p)
    logits = words(d.prefill([[3, 4, 5, 6]], [0]))
    assert logits.dtype == torch.float32
    assert checksum(d.tensors()) == checksum(p.tensors())
    assert (logits[0] - expected(p, [3, 4, 5, 6]).float()).abs().max() < 0.1
    assert not torch.equal(logits, logits.bfloat16().float())


def test_passes_bound_padding_and_keep_every_prompt() -> None:
    d = Decoder(policy("llama"))
    lengths = [1, 1000, 3000, 900, 7000, 2, 1, 300, 4]
    passes = d.passes([[3 + i] * length for i, length in enumerate(lengths)])
    assert sorted(i for chosen in passes for i in chosen) == list(range(len(lengths)))
    for chosen in passes:
        longest = max(lengths[i] for i in chosen)
        assert len(chosen) == 1 or longest * len(chosen) <= PASS_TOKENS
        assert all(2 * lengths[i] >= longest for i in chosen)


def test_every_shape_is_covered() -> None:
    assert set(CONFIGS) == set(NAMES)
