"""The feed-forward part of a layer: one block, or experts of which each token takes a few.

For sampling, without gradients. A row's numbers do not depend on the rows beside it, whichever
experts those take.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from upslope.models.panels import CACHE, product
from upslope.models.products import add_decoded, by_onednn, decoded


@dataclass(frozen=True, slots=True)
class Dense:
    """``gate_up`` [panels, hidden, 2 width], half of each the gate's; ``down`` [wide, hidden]."""

    gate_up: Tensor
    down: Tensor

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        """``x`` plus what the block makes of its norm ``h``, in place: [n, hidden]."""
        parts = -(-len(x) * 2 * self.down[:, 0].nbytes // CACHE) if x.device.type == "cpu" else 1
        for rows, normed in zip(x.tensor_split(parts), h.tensor_split(parts), strict=True):
            add_decoded(rows, self.inner(normed), self.down)
        return x

    def inner(self, h: Tensor) -> Tensor:
        """SwiGLU (arXiv:2002.05202): [n, wide]."""
        gate, up = product(h, self.gate_up).chunk(2, -1)
        out = h.new_empty(len(h), len(gate), gate.shape[-1])
        torch.mul(F.silu(gate, inplace=True), up, out=out.transpose(0, 1))
        return out.view(len(h), -1)


@dataclass(slots=True)
class Experts:
    """``router`` [hidden, experts], ``gate_up`` [experts, 2 wide, hidden], ``down`` [experts,
    hidden, wide]. Every token also takes the ``shared`` expert, whose weight is one more column of
    the router.

    Each token takes ``most``; ``normed``: their weights sum to 1. ``padding``: FLOPs so far of rows
    that are computed twice.
    """

    router: Tensor
    gate_up: Tensor
    down: Tensor
    shared: Dense | None
    most: int
    normed: bool
    padding: int = 0

    def __call__(self, x: Tensor, h: Tensor) -> Tensor:
        """``x`` and what the experts make of its norm ``h``: [n, hidden]."""
        scores = decoded(h, self.router)
        weights, chosen = self.choose(scores[:, : len(self.down)])
        out = self._products(h, chosen) * weights[..., None]
        if self.shared is not None:
            all_take = decoded(self.shared.inner(h), self.shared.down)
            x = torch.addcmul(x, all_take, scores[:, -1:].sigmoid())
        return x + out.sum(1).to(x.dtype)

    def choose(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Weights in FP32 and which experts, both [n, most], by ``scores`` [n, experts]."""
        weights, chosen = torch.softmax(scores, -1, torch.float32).topk(self.most)
        if self.normed:
            weights /= weights.sum(-1, keepdim=True)
        return weights, chosen

    def _products(self, h: Tensor, chosen: Tensor) -> Tensor:
        """What the ``chosen`` experts [n, most] make of ``h``: [n, most, hidden]."""
        taken = chosen.view(-1)
        count = taken.bincount(minlength=len(self.down))
        alone = count == 1  # a one-row product rounds differently from the same row among others
        order = taken.argsort(stable=True)
        order = order.repeat_interleave((1 + alone.long())[taken[order]])
        sizes = (count + alone).tolist()
        inner = _gated(_multiplied(h[order // self.most], self.gate_up, sizes))
        out = _multiplied(inner, self.down, sizes)
        self.padding += 6 * self.down[0].numel() * (len(order) - len(taken))
        own = out.new_empty(len(taken), out.shape[1]).index_copy_(0, order, out)
        return own.view(*chosen.shape, -1)


def _multiplied(rows: Tensor, matrices: Tensor, sizes: list[int]) -> Tensor:
    """[n, out]: the first ``sizes[0]`` rows [n, in] by the first matrix [out, in], and so on.

    By MKL matrices come first: for 2 to 32 rows that is faster, and no row's bits depend on their
    number.
    """
    out = rows.new_empty(len(rows), matrices.shape[1])
    for matrix, part, place in zip(matrices, rows.split(sizes), out.split(sizes), strict=True):
        if len(part):
            place.copy_(
                decoded(part, matrix.t()) if by_onednn(part, matrix) else (matrix @ part.t()).t()
            )
    return out


def _gated(x: Tensor) -> Tensor:
    """SwiGLU of the two halves (arXiv:2002.05202), overwriting the first."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate, inplace=True).mul_(up)
