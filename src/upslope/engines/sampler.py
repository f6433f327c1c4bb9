"""Draws tokens from logits, each row with its own temperature and its own uniform number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256


@torch.inference_mode()
def draw(
    logits: Float[Tensor, "row vocabulary"],
    temperature: Float[Tensor, " row"],
    uniform: Float[Tensor, " row"],
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """Tokens and their log-probabilities under the temperature; temperature 0 is greedy.

    Inverts the cumulative distribution in two levels, blocks and then one block's tokens, with
    sums in double precision. ``uniform`` is double, in [0, 1). Overwrites ``logits`` (float32).
    A greedy token's log-probability is the one at temperature 1.
    """
    rows, vocabulary = logits.shape
    block = min(BLOCK, vocabulary)
    blocks = -(-vocabulary // block)
    greedy = temperature == 0
    logits = logits.div_(torch.where(greedy, 1.0, temperature)[:, None])
    top = logits.amax(-1, keepdim=True)
    weights = logits.new_empty(rows, blocks * block)
    weights[:, vocabulary:] = 0
    torch.sub(logits, top, out=weights[:, :vocabulary]).exp_()
    parts = weights.view(rows, blocks, block)
    cumulative = parts.sum(-1).double().cumsum(-1)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        raise ArithmeticError(
            "the engine's logits are not finite: look at the weights it was given"
        )
    chosen, rest = _invert(cumulative, uniform[:, None] * total)
    inside = parts[torch.arange(rows, device=logits.device), chosen[:, 0]]
    place, _ = _invert(inside.double().cumsum(-1), rest)
    tokens = (chosen * block + place)[:, 0]
    if bool(greedy.any()):
        tokens = torch.where(greedy, logits.argmax(-1), tokens)
    logprobs = (logits.gather(1, tokens[:, None]) - top).double() - total.log()
    return tokens, logprobs[:, 0].float()


def _invert(cumulative: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first place whose sum exceeds the target [row, 1], and the target less the sum before it.

    A target that rounding carried to the end is brought back, so that a token of probability 0 is
    never drawn.
    """
    end = cumulative[:, -1:]
    target = torch.minimum(target, torch.nextafter(end, torch.zeros_like(end)))
    place = torch.searchsorted(cumulative, target, right=True)
    before = cumulative.gather(1, (place - 1).clamp(min=0))
    return place, target - torch.where(place > 0, before, 0.0)
