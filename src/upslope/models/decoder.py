"""A fast forward pass, with stored keys and values, for Llama, Qwen2 and Qwen3 models and their
mixtures of experts (Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE).

For sampling: no gradients, and its own copy of the weights, fused and laid out for few rows. What
it cannot do exactly ``cached`` does with the model's own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from upslope.models.cohorts import Cohort, closest, leave, softmax
from upslope.models.fused import Weights, fill
from upslope.models.panels import blocks, product
from upslope.models.policy import Policy

PASS_TOKENS = 4096  # of one prefill pass, padding included: bounds its activations
WORTH = 8  # tokens that prompts must share for a root of their own
WHOLE = 256  # places of which a CPU computes all scores sooner than a fused attention's
MOST_COHORTS = 4  # each costs its own attention calls in every layer

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder:
    """Prefills prompts and decodes rows together; rows join at the end and leave at any time."""

    fast = True

    def __init__(self, policy: Policy) -> None:
        """Copy the policy's weights; keeps its dtype and device."""
        self._device, self._cost = policy.model.device, policy.cost
        self._weights, self._token_bytes = Weights(policy.model, self._device), policy.token_bytes
        self._head_dtype = policy.head_dtype
        self.load(policy.tensors())
        self._cohorts: list[Cohort] = []
        self._flops = 0  # whole, so that differences do not depend on how much there was before
        self.shared = 0  # tokens that all prompts of the last prefill began with, computed once
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
        self._head = self._weights.head.to(self._head_dtype)  # a copy only where the dtypes differ

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The weights in use by Hugging Face name, as views of the buffers."""
        yield from self._weights.slots.items()

    def room(self, prompt: int, limit: int, rows: int) -> int:
        """Bytes that one of ``rows`` with a prompt in common may take, with its part of that."""
        return self._token_bytes * (limit - (-prompt // rows))

    def passes(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which prompts to prefill together: similar lengths, bounded padded tokens."""
        passes: list[list[int]] = []
        longest = 0
        for prompt in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            full = not passes or (len(passes[-1]) + 1) * longest > PASS_TOKENS
            if full or 2 * lengths[prompt] < longest:
                passes.append([])
                longest = lengths[prompt]
            passes[-1].append(prompt)
        return passes

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], owner: Sequence[int]) -> Tensor:
        """Add rows continuing ``prompts[owner[row]]``; logits [prompts, blocks, width]."""
        w, count, root = self._weights, len(prompts), common_start(prompts)
        longest = max(2, *map(len, prompts))  # a one-row product rounds differently
        rest = longest - root
        padded = np.zeros((count, rest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt) - root] = prompt[root:]
        lengths = torch.tensor([len(p) for p in prompts], device=self._device)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        scale = w.size**-0.5

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            shape = (count, rest, -1, w.size)
            own_q, own_k, own_v = (x[root:].view(shape).transpose(1, 2) for x in (q, k, v))
            if not root:
                keys.append(own_k.transpose(-1, -2).contiguous().mul_(scale))
                values.append(own_v.contiguous())
                return attended(own_q, keys[-1], values[-1], 0)
            q, k, v = (x[None, :root].transpose(1, 2) for x in (q, k, v))
            all_k = torch.cat((k.expand(count, -1, -1, -1), own_k), 2)
            all_v = torch.cat((v.expand(count, -1, -1, -1), own_v), 2)
            keys.append(all_k.transpose(-1, -2).contiguous().mul_(scale))
            values.append(all_v)
            mine = attended(q, k.transpose(-1, -2) * scale, v, 0)
            return torch.cat((mine, attended(own_q, keys[-1], all_v, root)))

        places = torch.arange(longest, device=self._device)
        position = torch.cat((places[:root], places[root:].repeat(count)))
        tokens = torch.tensor(prompts[0][:root], dtype=torch.long)
        tokens = torch.cat((tokens, torch.from_numpy(padded).view(-1))).to(self._device)
        x = self._trunk(tokens, position, attend)
        last = root + torch.arange(count, device=self._device) * rest + lengths - root - 1
        self._cohorts.append(Cohort(keys, values, lengths, torch.tensor(owner).to(self._device)))
        pairs = root**2 + count * rest * longest
        self._flops += round(self._cost.forward(len(tokens), pairs, max(2, count)))
        self.shared = root
        return self._logits(x[last])

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
            h = (
                h @ layer.qkv
                if layer.qkv_bias is None
                else torch.addmm(layer.qkv_bias, h, layer.qkv)
            )
            qk, v = h.view(len(x), -1, w.size).split(split, 1)
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = qk.split((w.heads, w.kv), 1)
                qk = torch.cat((self._within(q, layer.q_norm), self._within(k, layer.k_norm)), 1)
            qk = _rotated(qk, cos, sin)
            out = attend(index, qk[:, : w.heads], qk[:, w.heads :], v)
            x = torch.addmm(x, out.reshape(len(x), -1), layer.out)
            x = layer.mlp(x, self._normed(x, layer.after))
        return x

    def _embedded(self, tokens: Tensor) -> Tensor:
        panels = self._weights.embedding
        return panels[tokens // panels.shape[1], tokens % panels.shape[1]]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """What ``F.rms_norm`` computes, in a fifth of its time on a CPU."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(weight).to(x.dtype)

    def _within(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x`` [n, heads, size] normed over each head, or over all heads, as there are weights."""
        return self._normed(x.reshape(len(x), -1, len(weight)), weight).view(x.shape)

    def _logits(self, x: Tensor) -> Tensor:
        """[n, blocks, width] in float32, whatever computed in, and never as a one-row product."""
        x = self._normed(x, self._weights.norm).to(self._head_dtype)
        rows = x if len(x) > 1 else x.repeat(2, 1)
        return blocks(product(rows, self._head).float())[: len(x)]


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share, less than any has; 0 where sharing saves little."""
    if len(prompts) < 2:
        return 0
    ordered = sorted(map(tuple, prompts))
    low, high = ordered[0], ordered[-1]  # all others lie between them
    pairs = zip(low, high, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(low), len(high)))
    shared = min(same, *(len(prompt) - 1 for prompt in prompts))
    return shared if shared >= WORTH else 0


def attended(q: Tensor, keys: Tensor, values: Tensor, first: int) -> Tensor:
    """Causal attention of the queries from place ``first`` on: [batch * token, head, size].

    ``q`` [batch, head, token, size], scaled ``keys`` [batch, kv, size, place], ``values`` [batch,
    kv, place, size].
    """
    batch, heads, count, size = q.shape
    kv, places = keys.shape[1], keys.shape[-1]
    seen = torch.ones(count, places, dtype=torch.bool, device=q.device).tril(first)
    if places > WHOLE or q.device.type != "cpu":
        mask, k = seen if first else None, keys.transpose(-1, -2)
        out = F.scaled_dot_product_attention(
            q, k, values, mask, is_causal=not first, enable_gqa=True, scale=1.0
        )
    else:
        hidden = torch.zeros(count, places, dtype=q.dtype).masked_fill_(~seen, -torch.inf)
        scores = (q.reshape(batch, kv, -1, size) @ keys).view(batch, heads, count, places)
        weights = softmax(scores.add_(hidden))
        out = (weights.view(batch, kv, -1, places) @ values).view(q.shape)
    return out.transpose(1, 2).flatten(0, 1)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: ``x`` [n, heads, size], ``cos`` and ``sin`` [n, 1, size]."""
    out = x * cos
    (first, second), (to_first, to_second) = x.chunk(2, -1), out.chunk(2, -1)
    lower, upper = sin.chunk(2, -1)
    to_first.addcmul_(second, lower, value=-1)
    to_second.addcmul_(first, upper)
    return out
