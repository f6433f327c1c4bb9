"""Parts that algorithms put together: what they share of settings, rewards, means and penalties.

An algorithm takes them as its own: ``keep, start, advance = parts.keep, parts.start, ...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from upslope import advantages
from upslope.advantages import Overlong
from upslope.batch import Algorithm, Batch, Claim, Column, Outputs, Read, State
from upslope.losses import KL, Entropy, kl
from upslope.types import Group, Metrics

# A group without signal counts in the means, leaves them, or is not kept (and another is played).
ZeroVariance = Literal["count", "drop", "resample"]
NO_COLUMNS: frozenset[Column] = frozenset()
POLICY_GRADIENT: frozenset[Claim] = frozenset({"policy_gradient", "silent_without_advantage"})


class Shaped(Protocol):
    """The settings of every policy gradient here."""

    @property
    def overlong(self) -> Overlong: ...

    @property
    def entropy(self) -> Entropy: ...

    @property
    def kl(self) -> KL: ...


class Grouped(Shaped, Protocol):
    """Those of one whose baseline is the group's."""

    @property
    def zero_variance(self) -> ZeroVariance: ...


def keep_all(self: Algorithm, group: Group) -> bool:
    """``keep`` of an algorithm that trains on every group."""
    return True


def no_state(self: Algorithm) -> State:
    """``start`` of an algorithm without state."""
    return {}


def same_state(self: Algorithm, state: State, metrics: Metrics) -> State:
    """``advance`` of an algorithm without state."""
    return state


def keep(self: Grouped, group: Group) -> bool:
    """Every group, or those with signal alone: dynamic sampling (DAPO, arXiv:2503.14476)."""
    return self.zero_variance != "resample" or group.mixed


def start(self: Shaped) -> State:
    """The entropy bonus's state."""
    return self.entropy.start()


def advance(self: Shaped, state: State, metrics: Metrics) -> State:
    """The entropy bonus's state after a step."""
    return self.entropy.advance(state, metrics)


def columns(self: Shaped) -> frozenset[Column]:
    """The reference for a KL, and for one in the reward the old policy's values, too."""
    if self.kl.in_reward:
        return frozenset({"ref_logprobs", "old_logprobs"})
    return frozenset({"ref_logprobs"}) if self.kl.in_loss else NO_COLUMNS


def _reads(self: Shaped) -> frozenset[Read]:
    return frozenset({"logprobs", "entropy"} if self.entropy.wanted else {"logprobs"})


def _claims(self: Shaped) -> frozenset[Claim]:
    """A KL in the loss and an entropy bonus move rows without signal, too."""
    return frozenset() if self.kl.in_loss or self.entropy.wanted else POLICY_GRADIENT


def _group_claims(self: Grouped) -> frozenset[Claim]:
    """A KL in the reward and a punished length are signals of their own."""
    if self.kl.in_reward or self.overlong.limit:
        return _claims(self)
    return _claims(self) | {"equal_rewards_no_signal"}


needs, reads = property(columns), property(_reads)
claims, group_claims = property(_claims), property(_group_claims)


def outcomes(
    batch: Batch, penalty: KL, overlong: Overlong = Overlong()
) -> tuple[Tensor, Tensor, Tensor]:
    """Reward, group id and validity of each trajectory; a reward less what settings take off."""
    reward, member = batch.by_trajectory(batch.reward)
    group, _ = batch.by_trajectory(batch.group)
    valid, _ = batch.by_trajectory(batch.valid)
    if batch.bare:
        return reward, group, valid
    zeros = torch.zeros_like(reward)
    sampled = zeros.index_add(0, member, batch.trained.sum(1).to(reward.dtype))
    reward = reward - overlong.penalty(sampled)
    if not penalty.in_reward:
        return reward, group, valid
    summed = zeros.index_add(0, member, _distance(penalty, batch).sum(1))
    return reward - penalty.coefficient * summed, group, valid


def kl_paid(self: Shaped, batch: Batch) -> Tensor:
    """What a KL in the reward takes off at each trained token, [row token]."""
    return self.kl.coefficient * _distance(self.kl, batch)


def _distance(penalty: KL, batch: Batch) -> Tensor:
    if batch.old_logprobs is None or batch.ref_logprobs is None:
        raise ValueError("a KL in the reward needs old_logprobs and ref_logprobs filled")
    return kl(batch.old_logprobs, batch.ref_logprobs, penalty.kind) * batch.trained


def compared(self: Grouped, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """``outcomes`` to compare; members of groups that are dropped do not vote in a batch's std."""
    reward, group, valid = outcomes(batch, self.kl, self.overlong)
    if self.zero_variance == "drop":
        valid = valid & advantages.mixed(reward, group, valid)
    return reward, group, valid


def spread(self: Shaped, batch: Batch, values: Tensor) -> Tensor:
    """One advantage a trajectory onto the tokens that learn from it, [row token]."""
    return batch.spread(values) * _unmasked(self, batch)


def counted(self: Shaped, batch: Batch) -> Tensor:
    """Trained tokens that the means are taken over: all but those of masked trajectories."""
    return batch.trained & _unmasked(self, batch)


def group_counted(self: Grouped, batch: Batch) -> Tensor:
    """``counted``, without the groups that have no signal where these are dropped."""
    if self.zero_variance != "drop":
        return counted(self, batch)
    if batch.advantages is None:
        raise ValueError("dropping groups without signal needs advantages")
    live = torch.isin(batch.group, batch.group[(batch.advantages != 0).any(1)])
    return counted(self, batch) & live[:, None]


def _unmasked(self: Shaped, batch: Batch) -> Tensor:
    """[row 1], False for trajectories cut by the length limit where they are masked."""
    return ~(batch.truncated & self.overlong.mask)[:, None]


def with_penalties(
    self: Shaped, loss: Tensor, metrics: Mapping[str, Tensor], out: Outputs, batch: Batch
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss plus the KL where it belongs to the loss, less the entropy bonus."""
    seen = dict(metrics)
    if self.kl.in_loss:
        if batch.old_logprobs is None or batch.ref_logprobs is None:
            raise ValueError("a KL in the loss needs ref_logprobs filled")
        distance = self.kl.per_token(out.logprobs, batch.old_logprobs, batch.ref_logprobs)
        loss = loss + self.kl.coefficient * distance
        seen["kl/reference"] = distance.detach()
    if self.entropy.wanted:
        if out.entropy is None:
            raise ValueError("an entropy bonus needs the entropy computed")
        paid = self.entropy.paid(batch.state)
        loss = loss - paid * out.entropy
        seen["entropy/mean"] = out.entropy.detach()
        seen["entropy/coefficient"] = torch.full_like(loss.detach(), paid)
    return loss, seen


def filled(batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch's old log-probabilities and advantages, which every ratio needs."""
    if batch.old_logprobs is None or batch.advantages is None:
        raise ValueError("a policy loss needs old_logprobs and advantages")
    return batch.old_logprobs, batch.advantages
