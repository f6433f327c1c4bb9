"""The engine battery passes on the local engine, and catches what is seeded into it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

import small_policies
from upslope.batteries import check_engine
from upslope.engines.local import LocalEngine
from upslope.types import Completion, Sampling, UserError


@pytest.fixture(scope="module")
def policy() -> Any:
    return small_policies.policy("llama")


def test_the_local_engine_passes(policy):
    proofs = asyncio.run(check_engine(LocalEngine(policy), policy))
    assert len(proofs) == 5
    assert proofs[-1].seen == "versions 0 to 2"


class Faulty:
    """The local engine with something changed in what it is asked, or in what it answers."""

    def __init__(self, policy: Any) -> None:
        self.inner, self.calls = LocalEngine(policy), 0

    def asked(self, sampling: Sampling) -> Sampling:
        return sampling

    def answered(self, said: Completion, sampling: Sampling) -> Completion:
        return said

    async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
        self.calls += 1
        return self.answered(await self.inner.sample(tokens, self.asked(sampling)), sampling)

    async def load_weights(self, source: Any, version: int, in_flight: Any = "finish") -> None:
        await self.inner.load_weights(source, version, in_flight)

    async def checksum(self) -> str:
        return await self.inner.checksum()


class NoTemperature(Faulty):
    def answered(self, said: Completion, sampling: Sampling) -> Completion:
        scale = sampling.temperature or 1.0
        return replace(said, logprobs=said.logprobs * scale)


class RandomGreedy(Faulty):
    def asked(self, sampling: Sampling) -> Sampling:
        hot = sampling.temperature or 1.0
        return replace(sampling, temperature=hot, seed=sampling.seed + 31 * self.calls)


class AlwaysTheSameDraw(Faulty):
    def asked(self, sampling: Sampling) -> Sampling:
        return replace(sampling, temperature=sampling.temperature or 1.0)


class Longer(Faulty):
    def asked(self, sampling: Sampling) -> Sampling:
        return replace(sampling, max_tokens=sampling.max_tokens + 1)


class NoStops(Faulty):
    def asked(self, sampling: Sampling) -> Sampling:
        return replace(sampling, stop=())


class SeedsByArrival(Faulty):
    def asked(self, sampling: Sampling) -> Sampling:
        return replace(sampling, seed=sampling.seed + self.calls)


class KeepsWeights(Faulty):
    async def load_weights(self, source: Any, version: int, in_flight: Any = "finish") -> None:
        return None


class KeepsVersion(Faulty):
    def answered(self, said: Completion, sampling: Sampling) -> Completion:
        return replace(said, versions=said.versions * 0)


class OneSeedForAGroup(Faulty):
    async def sample_group(
        self, tokens: Sequence[int], asked: Sequence[Sampling]
    ) -> list[Completion]:
        return await self.inner.sample_group(tokens, [asked[0] for _ in asked])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (NoTemperature, "up to .* from the policy's"),
        (RandomGreedy, "does not say the same twice"),
        (AlwaysTheSameDraw, "does not take the likeliest token"),
        (Longer, "asked for 3 tokens, the engine gave 4"),
        (NoStops, "with the stop string"),
        (SeedsByArrival, "other tokens when requests share"),
        (OneSeedForAGroup, "sample_group gives other completions"),
        (KeepsWeights, "checksum is not that of the weights given"),
        (KeepsVersion, r"sampled with version 1 say {0}"),
    ],
)
def test_a_fault_in_an_engine_is_named(fault, said, policy):
    with pytest.raises(UserError, match=said):
        asyncio.run(check_engine(fault(policy), policy))
