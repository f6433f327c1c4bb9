"""Decoding with a model's own forward pass and cache: for what ``decoder`` does not know.

Right for any architecture whose cache can drop rows, slow: only prompts of one length are
decoded together, and every row stores its prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from upslope.models.cohorts import leave
from upslope.models.fused import fill
from upslope.models.panels import blocks
from upslope.models.policy import Policy

PASS_TOKENS = 4096  # of one prefill pass: bounds its activations


@dataclass(eq=False, slots=True)
class _Peers:
    """Rows of one length. The cache always holds two rows at least: see ``Decoder.step``."""

    cache: DynamicCache
    rows: int
    length: int

    def select(self, order: Tensor) -> None:
        """Keep the rows ``order``, in that order."""
        self.rows = len(order)
        self.cache.batch_select_indices(_two(order))


class Cached:
    """The methods of ``decoder.Decoder``, with the same meaning."""

    fast = False

    def __init__(self, policy: Policy) -> None:
        """Copy the policy's model; keeps its dtype and device."""
        self._policy = copy.copy(policy)
        self._policy.model = copy.deepcopy(policy.model).eval().requires_grad_(False)
        if policy.packs:  # its attention is for packed rows without a cache
            self._policy.model.set_attn_implementation("sdpa")
        self._peers: list[_Peers] = []
        self.flops = 0  # whole, so that differences do not depend on how much there was before
        self.known: list[int] = []
        self._read_head()

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy weights in place; ValueError where a tensor is missing, unknown or misshapen."""
        fill(dict(self._policy.tensors()), tensors)
        self._read_head()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights in use by Hugging Face name."""
        yield from self._policy.tensors()

    def room(self, prompt: int, limit: int, rows: int) -> int:
        """Bytes that one of ``rows`` may take; each has a prompt of its own."""
        return self._policy.token_bytes * (limit + prompt)

    def passes(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Which prompts to prefill together: equal lengths, bounded tokens."""
        passes: list[list[int]] = []
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for length, same in groupby(order, key=lambda i: len(prompts[i])):
            chosen, most = list(same), max(1, PASS_TOKENS // length)
            passes += [chosen[i : i + most] for i in range(0, len(chosen), most)]
        return passes

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], owner: Sequence[int]) -> Tensor:
        """Add rows continuing ``prompts[owner[row]]``; logits [prompts, blocks, width]."""
        model = self._policy.model
        peers = _Peers(DynamicCache(config=model.config), len(owner), 0)
        logits = self._forward(peers, _two(torch.tensor(prompts, device=model.device)))
        peers.select(torch.tensor(owner, device=model.device))
        self._peers.append(peers)
        self.known = [0] * len(prompts)
        return logits[: len(prompts)]

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Feed each row its ``tokens`` [rows]; logits [rows, blocks, width]."""
        parts = tokens.to(self._policy.model.device).split([p.rows for p in self._peers])
        return torch.cat(
            [
                self._forward(peers, _two(part)[:, None])[: peers.rows]
                for peers, part in zip(self._peers, parts, strict=True)
            ]
        )

    @torch.inference_mode()
    def keep(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Let rows go; returns the old places of the rows that stay, in their new order."""
        kept = leave(self._peers, alive, self._policy.model.device)
        self._peers = [peers for peers, _ in kept]
        return np.concatenate([np.arange(0), *(places for _, places in kept)])

    def remember(self, row: int, tokens: Sequence[int]) -> None:
        """Nothing: prompts are always computed whole."""

    def rest(self) -> None:
        """Nothing is kept."""

    def clear(self) -> None:
        """Let all rows go."""
        self._peers = []

    def _read_head(self) -> None:
        """The head in the dtype of its product: a copy only where that is not its own."""
        weight, bias = self._policy.head()
        dtype = self._policy.head_dtype
        self._head = weight.to(dtype), None if bias is None else bias.to(dtype)

    def _forward(self, peers: _Peers, tokens: Tensor) -> Tensor:
        """Logits [rows, blocks, width] after the last of ``tokens`` [rows, new], in float32."""
        rows, new = tokens.shape
        trunk = self._policy.trunk
        states = trunk(input_ids=tokens, past_key_values=peers.cache, use_cache=True)
        peers.length += new
        pairs = rows * new * peers.length
        self.flops += round(self._policy.cost.forward(rows * new, pairs, rows))
        last = states.last_hidden_state[:, -1].to(self._policy.head_dtype)
        return blocks(F.linear(last, *self._head).float()[None])


def _two(rows: Tensor) -> Tensor:
    """At least two rows: a one-row product rounds differently from the same row in a batch."""
    return rows if len(rows) > 1 else rows.repeat(2, *[1] * (rows.dim() - 1))
