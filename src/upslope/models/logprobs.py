"""Log-probabilities and entropy of given tokens, without a full-vocabulary tensor over the batch.

The head runs in ``Policy.head_dtype`` over parts of the vocabulary, on the states that predict a
needed token, and again in the backward pass, which costs its FLOPs once more and keeps its logits
out of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from upslope.models import attention, layers
from upslope.models.policy import Policy
from upslope.models.products import add_product, alike, linear, product
from upslope.models.trunk import Predicting, Work, predicting
from upslope.types import UserError

LOGITS = 2**22  # 16 MiB: what follows their product then finds them in a cache


def token_logprobs(
    policy: Policy,
    tokens: Int[Tensor, "row token"],
    length: Int[Tensor, " row"],
    needed: Bool[Tensor, "row token"],
    temperature: Float[Tensor, "row token"],
    *,
    entropy: bool = False,
) -> tuple[Float[Tensor, "row token"], Float[Tensor, "row token"] | None, Work]:
    """log p(token | those before it) where ``needed``, 0 elsewhere, in FP32; entropy in nats.

    ``temperature`` divides the logits, as it did when the tokens were sampled. What rows
    begin with alike is computed once where the architecture can be packed.
    """
    seen = predicting(policy, tokens, length, needed)
    values, work = head_logprobs(policy, seen, tokens, temperature, entropy)
    return values[0], values[1] if entropy else None, seen.work + work


def head_logprobs(
    policy: Policy,
    seen: Predicting,
    tokens: Int[Tensor, "row token"],
    temperature: Float[Tensor, "row token"],
    entropy: bool,
) -> tuple[list[Tensor], Work]:
    """Log-probabilities and entropies [row token] from the states that predict the tokens; the
    head's work alone."""
    device, where = policy.model.device, seen.where
    weight, bias = policy.head()
    values = HeadLogprobs.apply(  # type: ignore[no-untyped-call]
        seen.states,
        weight,
        bias,
        tokens[where].to(device),
        temperature[where].to(device),
        entropy,
        policy.head_dtype,
    )
    rows = len(seen.states)
    work = Work(policy.cost.head * rows, policy.cost.head_back * rows)
    return [torch.zeros(tokens.shape, device=device).index_put(where, v) for v in values], work


def prepare(policy: Policy) -> None:
    """Find out, by trying, whether this architecture can share prompts; refuse a head we misread.

    Sets ``policy.packs`` and the model's attention. Raises UserError for an architecture whose
    logits are more than its head's product, which chunks of the head would get wrong.
    """
    if policy.packs:
        return
    attention.register()
    tokens = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 4, 3, 0], [2, 1, 3, 5, 4]])
    length = torch.tensor([5, 4, 5])
    needed = torch.arange(5)[None] < length[:, None]
    ones = torch.ones(tokens.shape)
    with torch.no_grad(), alike():
        logits = policy.model(tokens.to(policy.model.device)).logits[:, :-1].float()
        true = logits.log_softmax(-1).cpu().gather(-1, tokens[:, 1:, None])[..., 0]
        true = torch.nn.functional.pad(true, (1, 0)) * needed
        exact = 1e-4
        if policy.model.dtype != torch.float32:  # the model's own logits are rounded, too
            exact = max(0.1, float(logits.abs().max()) / 128)
        policy.packs = False
        padded = token_logprobs(policy, tokens, length, needed, ones)[0].cpu()
        if not torch.allclose(padded, true, atol=exact):
            raise UserError(
                f"model {policy.name!r}: {type(policy.model).__name__} changes its logits after the"
                " head, which is not supported: choose another one"
            )
        if _windowed(policy):
            return
        before = policy.model.config._attn_implementation
        try:
            policy.model.set_attn_implementation(attention.NAME)
            policy.packs = True
            shared = token_logprobs(policy, tokens, length, needed, ones)[0].cpu()
            policy.packs = torch.allclose(shared, true, atol=exact)
        except (TypeError, ValueError, RuntimeError, IndexError):
            policy.packs = False  # not an architecture that hands keywords to its attention
        if not policy.packs:
            policy.model.set_attn_implementation(before)
        elif layers.known(policy.model):
            policy.lean = True
            own = token_logprobs(policy, tokens, length, needed, ones)[0].cpu()
            policy.lean = torch.allclose(own, true, atol=exact)


@contextmanager
def unpacked(policy: Policy) -> Iterator[None]:
    """Within it rows are padded and share nothing: the other way to the same numbers."""
    if not policy.packs:
        yield
        return
    policy.model.set_attn_implementation("sdpa")
    policy.packs = False
    try:
        yield
    finally:
        policy.model.set_attn_implementation(attention.NAME)
        policy.packs = True


def _windowed(policy: Policy) -> bool:
    """Whether some layer sees less than all that came before it."""
    settings = policy.model.config.get_text_config().to_dict()
    kinds = settings.get("layer_types") or []
    window = settings.get("sliding_window") and settings.get("use_sliding_window", True)
    return bool(window) or any(kind != "full_attention" for kind in kinds)


class HeadLogprobs(torch.autograd.Function):
    """states [n hidden] to log-probabilities and entropies [n] of ``targets``, by parts of the
    vocabulary: each part of the weight is read once a pass, and its gradient written once."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: Tensor,
        entropy: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        top = states.new_full(targets.shape, -torch.inf, dtype=torch.float32)
        total, chosen, mean = (torch.zeros_like(top) for _ in range(3))
        for part in _parts(weight, len(states)):
            logits = _logits(states, weight, bias, temperature, part, dtype)
            here, column = _targets(targets, part)
            chosen[here] = logits[here, column]
            higher = torch.maximum(top, logits.amax(-1))
            fall = (top - higher).exp_()
            top = higher
            if entropy:
                p = (logits - top[:, None]).exp_()
                mean = mean * fall + (p * logits).sum(-1)
            else:
                p = logits.sub_(top[:, None]).exp_()
            total = total * fall + p.sum(-1)
        # The largest logit goes first: near 0 a float is finer than near the logits' size.
        rest = total.log()
        spread = top + rest - mean / total if entropy else torch.zeros_like(top)
        ctx.save_for_backward(states, weight, bias, targets, temperature, top + rest, spread)
        ctx.entropy, ctx.dtype = entropy, dtype
        return (chosen - top) - rest, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, temperature, norms, spread = ctx.saved_tensors
        to_states = torch.zeros_like(states, dtype=torch.float32)
        there = layers.gradient(weight) if ctx.needs_input_grad[1] else None
        to_weight = there
        if ctx.needs_input_grad[1] and there is None:
            to_weight = torch.empty_like(weight)
        to_bias = None if bias is None else torch.empty_like(bias)
        wanted = grads[0] / temperature
        for part in _parts(weight, len(states)):
            logits = _logits(states, weight, bias, temperature, part, ctx.dtype)
            logp = logits.sub_(norms[:, None])
            if ctx.entropy:
                # dH/dlogit = -p (log p + H)
                p = logp.exp()
                aside = (logp + spread[:, None]).mul_((grads[1] / temperature)[:, None])
                out = aside.add_(wanted[:, None]).mul_(p).neg_()
            else:
                out = logp.exp_().mul_(-wanted[:, None])
            here, column = _targets(targets, part)
            out[here, column] += wanted[here]
            to_states += product(out.to(ctx.dtype), weight[part].to(ctx.dtype))
            if to_weight is not None:
                _add_product(to_weight[part], out, states.float(), fresh=there is None)
            if to_bias is not None:
                to_bias[part] = out.sum(0)
        to_weight = to_weight if there is None else None
        return to_states.to(states.dtype), to_weight, to_bias, None, None, None, None


def _add_product(into: Tensor, out: Tensor, states: Tensor, fresh: bool) -> None:
    """Add the gradient of a part of the weight to what is there, or write it there."""
    if into.dtype != out.dtype:
        found = product(out.t(), states)
        into.copy_(found if fresh else into + found)
    elif fresh:
        into.copy_(product(out.t(), states))
    else:
        add_product(into, out.t(), states)


def _parts(weight: Tensor, states: int) -> Iterator[slice]:
    """Parts of the vocabulary whose logits take about ``LOGITS`` numbers."""
    step = max(LOGITS // max(states, 1), 1024)
    for start in range(0, len(weight), step):
        yield slice(start, min(start + step, len(weight)))


def _targets(targets: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Which states have their target in this part, and where there."""
    here = ((targets >= part.start) & (targets < part.stop)).nonzero()[:, 0]
    return here, targets[here] - part.start


def _logits(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: Tensor,
    part: slice,
    dtype: torch.dtype,
) -> Tensor:
    """In float32 from here on, whatever the head's product was computed in."""
    logits = linear(states.to(dtype), weight[part].to(dtype)).float()
    if bias is not None:
        logits += bias[part].float()
    return logits.div_(temperature[:, None])
