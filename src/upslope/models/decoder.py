"""A fast forward pass, with stored keys and values, for Llama, Qwen2 and Qwen3 models and their
mixtures of experts (Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE).

For sampling: no gradients, and its own copy of the weights, fused and laid out for few rows. What
it cannot do exactly ``cached`` does with the model's own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upslope.models.cohorts import Cohort, closest, leave
from upslope.models.fused import Weights, fill
from upslope.models.panels import blocks, product
from upslope.models.policy import Policy
from upslope.models.prefill import Prefill, common_start
from upslope.models.prefixes import Prefix, Prefixes
from upslope.models.products import add_decoded, decoded

PASS_TOKENS = 4096  # of one prefill pass, padding included: bounds its activations
MOST_COHORTS = 4  # each costs its own attention calls in every layer

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder:
    """Prefills prompts and decodes rows together; rows join at the end and leave at any time."""

    fast = True

    def __init__(self, policy: Policy, prefixes: int = 0) -> None:
        """Copy the policy's weights; keeps its dtype and device. ``prefixes``: bytes for keys and
        values of what later prompts may begin with."""
        self._device, self._cost = policy.model.device, policy.cost
        self._weights, self._token_bytes = Weights(policy.model, self._device), policy.token_bytes
        self._prefixes = Prefixes(prefixes)
        self._head_dtype = policy.head_dtype
        self.load(policy.tensors())
        self._cohorts: list[Cohort] = []
        self._flops = 0  # whole, so that differences do not depend on how much there was before
        self.known: list[int] = []  # of each prompt of the last prefill, tokens not computed for it
        places = torch.arange(policy.context + 1, device=self._device)[None]
        with torch.no_grad():
            cos, sin = policy.model.model.rotary_emb(self._weights.embedding, places)
        self._cos, self._sin = cos[0], sin[0]
        self._eps = torch.tensor(self._weights.eps, device=self._device)

    @property
    def flops(self) -> int:
        """Of all passes so far, rows that only pad included."""
        return self._flops + sum(experts.padding for experts in self._weights.experts)

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy weights in place; ValueError where a tensor is missing, unknown or misshapen."""
        fill(self._weights.slots, tensors)
        self._prefixes.clear()
        self._head = self._weights.head.to(self._head_dtype)  # a copy only where the dtypes differ

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights in use by Hugging Face name, as views of the buffers."""
        yield from self._weights.slots.items()

    def room(self, prompt: int, limit: int, rows: int) -> int:
        """Bytes that one of ``rows`` with a prompt in common may take, with its part of that."""
        return self._token_bytes * (limit - (-prompt // rows))

    def passes(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Which prompts to prefill together: similar lengths, bounded padded tokens."""
        passes: list[list[int]] = []
        root, longest, widest = common_start(prompts), 0, 0
        new = [len(p) - max(root, self._prefixes.known(tuple(p))) for p in prompts]
        for prompt in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
            widest = max(widest, new[prompt])
            full = not passes or (len(passes[-1]) + 1) * widest > PASS_TOKENS
            if full or 2 * len(prompts[prompt]) < longest:
                passes.append([])
                longest, widest = len(prompts[prompt]), new[prompt]
            passes[-1].append(prompt)
        return passes

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], owner: Sequence[int]) -> Tensor:
        """Add rows continuing ``prompts[owner[row]]``; logits [prompts, blocks, width]."""
        w = self._weights
        found = [self._prefixes.take(tuple(prompt)) for prompt in prompts]
        new = Prefill(prompts, found, w.size, self._device)
        x = self._trunk(new.tokens, new.position.clamp(max=len(self._cos) - 1), new.attend)
        place = torch.tensor(owner).to(self._device)
        self._cohorts.append(Cohort(new.keys, new.values, new.lengths, place))
        rows = max(2, len(prompts))
        self._flops += round(self._cost.forward(len(new.tokens), new.pairs, rows))
        self.known = new.starts
        if new.root:
            self.known = [0, *new.starts[1:]]
            keys = torch.stack([k[:, 0, :, : new.root].mT for k in new.keys])
            values = torch.stack([v[:, 0, : new.root] for v in new.values])
            start = Prefix(keys.contiguous(), values, passing=True)
            self._prefixes.keep(tuple(prompts[0][: new.root]), start)
        return self._logits(x[new.last])

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Feed each row its ``tokens`` [rows]; logits [rows, blocks, width]."""
        cohorts, rows = self._cohorts, len(tokens)
        tokens = tokens.to(self._device)
        position = torch.cat([c.position for c in cohorts])
        if rows == 1:  # a one-row product rounds differently from the same row in a batch
            tokens, position = tokens.repeat(2), position.repeat(2)
        for cohort in cohorts:
            cohort.open()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if len(cohorts) == 1 and rows > 1:
                return cohorts[0].attend(layer, q, k, v)
            out, first = torch.zeros_like(q), 0
            for cohort in cohorts:
                part = slice(first, first + cohort.rows)
                out[part] = cohort.attend(layer, q[part], k[part], v[part])
                first = part.stop
            return out

        x = self._trunk(tokens, position, attend)
        pairs = sum(cohort.pairs for cohort in cohorts)
        self._flops += round(self._cost.forward(len(tokens), pairs, len(tokens)))
        for cohort in cohorts:
            cohort.close()
        return self._logits(x)[:rows]

    @torch.inference_mode()
    def keep(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Let rows go; returns the old places of the rows that stay, in their new order."""
        kept = leave(self._cohorts, alive, self._device)
        while len(kept) > MOST_COHORTS:
            a, b = closest([cohort for cohort, _ in kept])
            other, places = kept.pop(b)
            kept[a][0].absorb(other)
            kept[a] = (kept[a][0], np.concatenate((kept[a][1], places)))
        self._cohorts = [cohort for cohort, _ in kept]
        return np.concatenate([np.arange(0), *(places for _, places in kept)])

    @torch.inference_mode()
    def remember(self, row: int, tokens: Sequence[int]) -> None:
        """Keep what a row was fed, its ``tokens``, for a prompt that continues it."""
        for cohort in self._cohorts:
            if row < cohort.rows:
                self._prefixes.keep(tuple(tokens), Prefix(*cohort.read(row), passing=False))
                return
            row -= cohort.rows

    def rest(self) -> None:
        """Nobody waits: forget what prompts have in common (see ``prefixes``)."""
        self._prefixes.rest()

    def clear(self) -> None:
        """Let all rows go."""
        self._cohorts = []

    def _trunk(self, tokens: Tensor, position: Tensor, attend: Attention) -> Tensor:
        """Hidden states [n, hidden] before the last norm."""
        w = self._weights
        split = (w.heads + w.kv, w.kv)
        x = self._embedded(tokens)
        cos, sin = self._cos[position][:, None], self._sin[position][:, None]
        for index, layer in enumerate(w.layers):
            h = self._normed(x, layer.before)
            h = decoded(h, layer.qkv, layer.qkv_bias)
            qk, v = h.view(len(x), -1, w.size).split(split, 1)
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = qk.split((w.heads, w.kv), 1)
                qk = torch.cat((self._within(q, layer.q_norm), self._within(k, layer.k_norm)), 1)
            qk = _rotated(qk, cos, sin)
            out = attend(index, qk[:, : w.heads], qk[:, w.heads :], v)
            add_decoded(x, out.reshape(len(x), -1), layer.out)
            x = layer.mlp(x, self._normed(x, layer.after))
        return x

    def _embedded(self, tokens: Tensor) -> Tensor:
        panels = self._weights.embedding
        return panels[tokens // panels.shape[1], tokens % panels.shape[1]]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """What ``F.rms_norm`` computes, in a fifth of its time on a CPU."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).to(x.dtype).mul_(weight)

    def _within(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x`` [n, heads, size] normed over each head, or over all heads, as there are weights."""
        return self._normed(x.reshape(len(x), -1, len(weight)), weight).view(x.shape)

    def _logits(self, x: Tensor) -> Tensor:
        """[n, blocks, width] in float32, whatever computed in, and never as a one-row product."""
        x = self._normed(x, self._weights.norm).to(self._head_dtype)
        rows = x if len(x) > 1 else x.repeat(2, 1)
        return blocks(product(rows, self._head).float())[: len(x)]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: ``x`` [n, heads, size], ``cos`` and ``sin`` [n, 1, size]."""
    out = x * cos
    (first, second), (to_first, to_second) = x.chunk(2, -1), out.chunk(2, -1)
    lower, upper = sin.chunk(2, -1)
    to_first.addcmul_(second, lower, value=-1)
    to_second.addcmul_(first, upper)
    return out
