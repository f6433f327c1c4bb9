"""Draws tokens from logits, each row with its own temperature and its own uniform number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from upslope.models.panels import CACHE


@torch.inference_mode()
def draw(
    logits: Float[Tensor, "row block width"],
    temperature: Float[Tensor, " row"],
    uniform: Float[Tensor, " row"],
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"]]:
    """Tokens and their log-probabilities under the temperature; temperature 0 is greedy.

    The vocabulary is in blocks, in order (``panels.blocks``). Inverts the cumulative distribution
    in two levels, blocks and then one block's tokens, with sums in double precision. ``uniform`` is
    double, in [0, 1). Overwrites ``logits`` (float32). A greedy token's log-probability is the one
    at temperature 1.
    """
    rows, width = torch.arange(len(logits), device=logits.device), logits.shape[-1]
    greedy = (temperature == 0)[:, None]
    top, sums = _weigh(logits, torch.where(greedy, 1.0, temperature[:, None]))
    share = (top - top.amax(-1, keepdim=True)).double().exp_()  # of a weight 1 in each block
    cumulative = (sums.double() * share).cumsum(-1)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        raise ArithmeticError(
            "the engine's logits are not finite: look at the weights it was given"
        )
    chosen, rest = _invert(cumulative, uniform[:, None] * total)
    some = bool(greedy.any())  # the highest of a row takes as long as all the rest, if it is small
    if some:
        chosen = torch.where(greedy, top.argmax(-1, keepdim=True), chosen)
    share = share.gather(1, chosen)
    inside = logits[rows, chosen[:, 0]].double()
    place, _ = _invert(inside.cumsum(-1), rest / share)
    if some:
        place = torch.where(greedy, inside.argmax(-1, keepdim=True), place)
    logprobs = (inside.gather(1, place) * share / total).log()
    return (chosen * width + place)[:, 0], logprobs[:, 0].float()


def _weigh(logits: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """In place of ``logits``: weights relative to the highest of their block; that logit over the
    temperature [row, 1], and the sum of the block's weights, both [row, block].

    A few blocks at a time, which stay in the cache from one operation to the next.
    """
    blocks = logits.transpose(0, 1)
    top, sums = logits.new_empty(2, *blocks.shape[:2])
    cool = bool((temperature != 1).any())
    part = max(1, CACHE // blocks[0].nbytes) if logits.device.type == "cpu" else len(blocks)
    for first in range(0, len(blocks), part):
        some = slice(first, first + part)
        weights = blocks[some]
        if cool:
            weights.div_(temperature)
        torch.amax(weights, -1, out=top[some]).clamp_(min=torch.finfo(top.dtype).min)
        torch.sum(weights.sub_(top[some, :, None]).exp_(), -1, out=sums[some])
    return top.t(), sums.t()


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
