"""What rows begin with alike, which a packed pass computes once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Int
from torch import Tensor


def shared_prefix(tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"]) -> int:
    """How many leading tokens all rows have in common, at most the shortest row less one."""
    if len(tokens) == 1:
        return int(length[0]) - 1
    same = (tokens == tokens[:1]).all(0)
    common = int(same.int().cumprod(0).sum())
    return min(common, int(length.min()) - 1)


def in_order(
    tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows in the order of their tokens, and how many each then shares with the one before it.

    A row's last token is left out, as in packing: nothing comes after it.
    """
    inside = np.arange(tokens.shape[1]) < (length.numpy()[:, None] - 1)
    words = np.where(inside, tokens.numpy() + 1, 0)
    # Big-endian bytes are ordered as the numbers are.
    order = words.astype(">u4").view(f"V{4 * tokens.shape[1]}")[:, 0].argsort(kind="stable")
    ranked, ends = words[order], length.numpy()[order] - 1
    apart = ranked[1:] != ranked[:-1]
    same = np.where(apart.any(1), apart.argmax(1), tokens.shape[1])
    return order, np.concatenate([[0], np.minimum(same, ends[1:])])


def packed_tokens(tokens: Int[Tensor, "row token"], length: Int[Tensor, " row"]) -> int:
    """How many tokens packed rows compute."""
    order, shared = in_order(tokens, length)
    return int(length.sum()) - len(order) - int(shared.sum())
