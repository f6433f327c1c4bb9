"""Replays given replies as if a model had sampled them, for tests of recipes, envs and chat."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from upslope.types import Completion, InFlight, Sampling, StopReason, Usage, UserError, WeightSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ScriptedEngine:
    """``types.Engine`` that answers with ``replies``, in the order of the requests.

    Of a mapping, a request takes from the longest key that its prompt's text contains. ``seen``:
    the prompt and settings of every request so far.
    """

    def __init__(
        self,
        replies: Sequence[str] | Mapping[str, Sequence[str]],
        tokenizer: PreTrainedTokenizerBase,
        eos: int,
        logprob: float = -1.0,
    ) -> None:
        """``logprob`` is what every token is said to have had."""
        scripts = replies if isinstance(replies, Mapping) else {"": replies}
        self._replies = {key: deque(script) for key, script in scripts.items()}
        self._tokenizer, self._eos, self._logprob = tokenizer, eos, logprob
        self.version = 0
        self.seen: list[tuple[tuple[int, ...], Sampling]] = []

    async def sample(self, tokens: Sequence[int], sampling: Sampling) -> Completion:
        """The next reply: up to its first stop string, else with the end token, cut to length."""
        prompt = tuple(map(int, tokens))
        self.seen.append((prompt, sampling))
        text, stopped = _until(self._next(self._tokenizer.decode(prompt)), sampling.stop)
        reply = list(self._tokenizer.encode(text, add_special_tokens=False))
        if not stopped:
            reply.append(self._eos)
        stop: StopReason = "length" if len(reply) > sampling.max_tokens else "stop"
        reply = reply[: sampling.max_tokens]
        usage = Usage(computed=len(prompt), decoded=len(reply))
        return Completion(
            np.array(reply),
            np.full(len(reply), self._logprob),
            np.full(len(reply), self.version),
            stop,
            usage,
        )

    async def load_weights(
        self, source: WeightSource, version: int, in_flight: InFlight = "finish"
    ) -> None:
        """Take the version; there are no weights to take."""
        if version < self.version:
            raise ValueError(f"weight versions never go down: {version} after {self.version}")
        self.version = version

    async def checksum(self) -> str:
        """Of the version, since there are no weights: it changes with every load."""
        return f"{self.version:016x}"

    def _next(self, prompt: str) -> str:
        keys = [key for key in self._replies if key in prompt]
        if not keys:
            raise UserError(f"no scripted reply is for the prompt {prompt!r}: add a key for it")
        script = self._replies[max(keys, key=len)]
        if not script:
            raise UserError(f"the scripted replies ran out at the prompt {prompt!r}: add more")
        return script.popleft()


def _until(reply: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The reply up to and with the stop string that ends first, and whether there was one."""
    ends = [reply.index(s) + len(s) for s in stop if s in reply]
    return (reply[: min(ends)], True) if ends else (reply, False)
