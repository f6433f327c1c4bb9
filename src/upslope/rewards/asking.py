"""Who a judge's question goes to: a server, or the policy's own engine. Its cost to the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from upslope.rewards import Host
from upslope.rewards.endpoint import Client
from upslope.rewards.failures import VerdictError
from upslope.types import Sampling

Judging = Callable[[str], float]


class Asks(Protocol):
    """One question, one answer."""

    async def ask(self, prompt: str, max_tokens: int, temperature: float, seed: int) -> str:
        """The answer's text; VerdictError where there is none."""

    def close(self) -> None:
        """End what waits."""


@dataclass(frozen=True)
class Served:
    """A server, of whose work tokens are known and FLOPs are not."""

    client: Client
    host: Host

    async def ask(self, prompt: str, max_tokens: int, temperature: float, seed: int) -> str:
        """The server's answer."""
        said = await self.client.ask(prompt, max_tokens, temperature, seed)
        self.host.spend(0.0, said.tokens)
        return said.text

    def close(self) -> None:
        """End its threads."""
        self.client.close()


@dataclass(frozen=True)
class Own:
    """The policy, with the weights that its engine has now."""

    host: Host

    async def ask(self, prompt: str, max_tokens: int, temperature: float, seed: int) -> str:
        """What it says to a message, or after a raw prompt where it knows no chat."""
        chat, policy = self.host.chat, self.host.policy
        role = "user" if chat.tokenizer.chat_template else "raw"
        tokens = chat.encode([{"role": role, "content": prompt}])
        if len(tokens) + max_tokens > policy.context:
            what = f"a question of {len(tokens)} tokens and an answer of {max_tokens} do not fit"
            raise VerdictError("refused", f"{what} into the policy's context of {policy.context}")
        sampling = Sampling(max_tokens, temperature, seed=seed)
        said = await self.host.engine.sample(tokens, sampling)
        usage = said.usage
        flops = usage.prefill_flops + usage.decode_flops
        self.host.spend(flops, usage.computed + usage.decoded)
        return str(chat.parse(said.tokens.tolist(), ())["content"])

    def close(self) -> None:
        """Nothing is its own."""
