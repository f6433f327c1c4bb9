"""Parts that algorithms put together: outcome rewards, KL in the loss, and the trivial state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from upslope.batch import Algorithm, Batch, Claim, Column, Outputs, State
from upslope.losses import KL, kl
from upslope.types import Group, Metrics

NO_COLUMNS: frozenset[Column] = frozenset()
POLICY_GRADIENT: frozenset[Claim] = frozenset({"policy_gradient", "silent_without_advantage"})


def keep_all(self: Algorithm, group: Group) -> bool:
    """``keep`` of an algorithm that trains on every group."""
    return True


def no_state(self: Algorithm) -> State:
    """``start`` of an algorithm without state."""
    return {}


def same_state(self: Algorithm, state: State, metrics: Metrics) -> State:
    """``advance`` of an algorithm without state."""
    return state


def columns_for(penalty: KL) -> frozenset[Column]:
    """What a KL penalty needs filled: the reference, and for the reward the old policy's values."""
    if penalty.in_reward:
        return frozenset({"ref_logprobs", "old_logprobs"})
    return frozenset({"ref_logprobs"}) if penalty.in_loss else NO_COLUMNS


def claims_for(penalty: KL, *, grouped: bool) -> frozenset[Claim]:
    """What a policy gradient with this penalty may claim; ``grouped``: its baseline is the group's.

    A KL in the loss moves rows without signal too; a KL in the reward is a signal of its own.
    """
    claims = frozenset[Claim]() if penalty.in_loss else POLICY_GRADIENT
    if grouped and not penalty.in_reward:
        claims |= {"equal_rewards_no_signal"}
    return claims


def outcomes(batch: Batch, penalty: KL) -> tuple[Tensor, Tensor, Tensor]:
    """Reward, group id and validity of each trajectory; the reward less its summed KL if so set."""
    reward, member = batch.by_trajectory(batch.reward)
    group, _ = batch.by_trajectory(batch.group)
    valid, _ = batch.by_trajectory(batch.valid)
    if not penalty.in_reward:
        return reward, group, valid
    if batch.old_logprobs is None or batch.ref_logprobs is None:
        raise ValueError("a KL in the reward needs old_logprobs and ref_logprobs filled")
    distance = kl(batch.old_logprobs, batch.ref_logprobs, penalty.kind) * batch.trained
    summed = torch.zeros_like(reward).index_add(0, member, distance.sum(1))
    return reward - penalty.coefficient * summed, group, valid


def with_kl(
    loss: Tensor, metrics: Mapping[str, Tensor], out: Outputs, batch: Batch, penalty: KL
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss plus the KL penalty where it belongs to the loss."""
    if not penalty.in_loss:
        return loss, metrics
    if batch.ref_logprobs is None:
        raise ValueError("a KL in the loss needs ref_logprobs filled")
    distance = kl(out.logprobs, batch.ref_logprobs, penalty.kind)
    return loss + penalty.coefficient * distance, {**metrics, "kl/reference": distance.detach()}


def filled(batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch's old log-probabilities and advantages, which every ratio needs."""
    if batch.old_logprobs is None or batch.advantages is None:
        raise ValueError("a policy loss needs old_logprobs and advantages")
    return batch.old_logprobs, batch.advantages
