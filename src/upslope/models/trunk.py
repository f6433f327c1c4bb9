"""The trunk's hidden states that predict given tokens, and the FLOPs that they cost.

Every head reads them: the vocabulary's in ``logprobs``, those of values in ``estimator``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from upslope.models import attention, layers
from upslope.models.packing import Packed, pack
from upslope.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of a forward pass as run, and of its backward pass."""

    forward: float
    backward: float

    def __add__(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True, slots=True, eq=False)
class Predicting:
    """``states`` [n hidden], each the one before its token; ``where``: the rows and places of these
    tokens, [n] each, on the CPU; ``work``: the trunk's."""

    states: Tensor
    where: tuple[Tensor, ...]
    work: Work


def predicting(
    policy: Policy,
    tokens: Int[Tensor, "row token"],
    length: Int[Tensor, " row"],
    needed: Bool[Tensor, "row token"],
) -> Predicting:
    """The states that predict the ``needed`` tokens; nothing predicts a row's first one.

    What rows begin with alike is computed once where the architecture can be packed.
    """
    needed = needed.clone()
    needed[:, 0] = False
    where = needed.nonzero(as_tuple=True)
    if policy.packs:
        packed = pack(tokens, length)
        states = _packed_states(policy, packed)
        at, work = packed.state_of[where], _packed_work(policy, packed)
    else:
        width = int(length.max())
        states = _padded_states(policy, tokens[:, :width], length).flatten(0, 1)
        at, work = where[0] * width + where[1] - 1, _padded_work(policy, len(tokens), width)
    return Predicting(states[at.to(policy.model.device)], where, work)


def _packed_states(policy: Policy, packed: Packed) -> Float[Tensor, "packed hidden"]:
    if policy.lean and not policy.again:
        return layers.states(policy.model, packed)
    device = policy.model.device
    layout = packed.layout.to(device)
    states = policy.trunk(
        input_ids=packed.tokens[None].to(device),
        position_ids=packed.positions[None].to(device),
        use_cache=False,
        layout=layout,
    ).last_hidden_state
    return states[0]  # type: ignore[no-any-return]


def _padded_states(
    policy: Policy, tokens: Tensor, length: Tensor
) -> Float[Tensor, "row token hidden"]:
    device = policy.model.device
    real = torch.arange(tokens.shape[1])[None] < length[:, None]
    return policy.trunk(  # type: ignore[no-any-return]
        input_ids=tokens.to(device), attention_mask=real.long().to(device), use_cache=False
    ).last_hidden_state


def _packed_work(policy: Policy, packed: Packed) -> Work:
    cost, pairs, back = policy.cost, 0, 0.0
    for block in packed.layout.blocks:
        pairs += block.pairs()
        plain = block.path.shape[1] and attention.shares_scores(block, *policy.heads)
        back += block.pairs() * (attention.PLAIN_BACKWARD if plain else attention.FUSED_BACKWARD)
    forward = cost.forward(len(packed.tokens), pairs, 0)
    backward = cost.token_back * len(packed.tokens) + cost.pair * back
    return Work(forward, backward + _again(policy, len(packed.tokens), pairs))


def _padded_work(policy: Policy, rows: int, width: int) -> Work:
    cost = policy.cost
    forward = cost.forward(rows * width, rows * width**2, 0)
    backward = cost.token_back * rows * width
    backward += attention.FUSED_BACKWARD * cost.pair * rows * width**2
    return Work(forward, backward + _again(policy, rows * width, rows * width**2))


def _again(policy: Policy, tokens: int, pairs: int) -> float:
    """FLOPs of the layers' second forward pass, where they keep nothing of the first."""
    if not policy.again:
        return 0.0
    return policy.again * tokens + policy.cost.pair * pairs
