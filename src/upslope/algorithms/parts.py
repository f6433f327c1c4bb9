"""Parts that algorithms put together: what they share of settings, rewards, means and penalties.

An algorithm takes them as its own: ``keep, start, advance = parts.keep, parts.start, ...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from upslope import advantages, exploration, losses
from upslope.advantages import Overlong
from upslope.batch import Algorithm, Batch, Claim, Column, Couples, Outputs, Read, State
from upslope.exploration import Explore
from upslope.losses import KL, Entropy, kl
from upslope.types import Group, Metrics

# A group without signal counts in the means, leaves them, or is not kept (and another is played).
ZeroVariance = Literal["count", "drop", "resample"]
Loss = tuple[Tensor, Mapping[str, Tensor]]
NO_COLUMNS: frozenset[Column] = frozenset()
EQUAL: frozenset[Claim] = frozenset({"equal_rewards_no_signal"})
COMPARED: frozenset[Claim] = EQUAL | {"alone_no_signal"}
POLICY_GRADIENT: frozenset[Claim] = frozenset({"policy_gradient", "silent_without_advantage"})


class Shaped(Protocol):
    """The settings of every policy gradient here."""

    @property
    def overlong(self) -> Overlong: ...

    @property
    def entropy(self) -> Entropy: ...

    @property
    def kl(self) -> KL: ...

    @property
    def explore(self) -> Explore: ...


class Grouped(Shaped, Protocol):
    """Those of one whose baseline is the group's."""

    @property
    def zero_variance(self) -> ZeroVariance: ...


class Clipped(Protocol):
    """Those of one with PPO's clip."""

    @property
    def clip_low(self) -> float: ...

    @property
    def clip_high(self) -> float: ...

    @property
    def clip_dual(self) -> float: ...


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
    """The state of the entropy bonus and of an adaptive KL."""
    return {**self.entropy.start(), **self.kl.start()}


def advance(self: Shaped, state: State, metrics: Metrics) -> State:
    """That state after a step."""
    return self.kl.advance(self.entropy.advance(state, metrics), metrics)


def check_dual(dual: float) -> None:
    """Refuse a dual clip that would act at ratio 1."""
    if dual and dual <= 1:
        raise ValueError(f"clip_dual must be above 1, or 0 for none, got {dual:g}")


def columns(self: Shaped) -> frozenset[Column]:
    """The reference for a KL, and for one in the reward the old policy's values, too."""
    needed: set[Column] = {"entropy"} if self.explore.hold == "low_entropy" else set()
    if self.kl.in_reward:
        needed |= {"ref_logprobs", "old_logprobs"}
    return frozenset(needed | {"ref_logprobs"} if self.kl.in_loss else needed)


def _reads(self: Shaped) -> frozenset[Read]:
    return frozenset({"logprobs", "entropy"} if self.entropy.wanted else {"logprobs"})


def penalised(self: Shaped) -> bool:
    """A KL in the loss, KL-Cov and an entropy bonus move rows without signal, too."""
    return self.kl.in_loss or self.entropy.wanted or self.explore.hold == "kl_cov"


def _claims(self: Shaped) -> frozenset[Claim]:
    return frozenset() if penalised(self) else POLICY_GRADIENT


def signals(self: Shaped) -> frozenset[Claim]:
    """``claims`` of one that compares a group's members.

    A KL in the reward and a punished length are signals of their own, which one alone has not.
    """
    unequal = self.kl.in_reward or self.overlong.limit
    return _claims(self) | (COMPARED - EQUAL if unequal else COMPARED)


def _couples(self: Shaped) -> Couples:
    """KL-Cov compares the tokens of a group."""
    return "group" if self.explore.hold == "kl_cov" else "row"


def _trajectory_couples(self: Shaped) -> Couples:
    return "group" if self.explore.hold == "kl_cov" else "trajectory"


needs, reads = property(columns), property(_reads)
couples, trajectory_couples = property(_couples), property(_trajectory_couples)
claims, group_claims = property(_claims), property(signals)


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
    return reward - penalty.paid(batch.state) * summed, group, valid


def kl_paid(self: Shaped, batch: Batch) -> Tensor:
    """What a KL in the reward takes off at each trained token, [row token]; else 0."""
    if batch.bare or not self.kl.in_reward:
        return torch.zeros_like(batch.engine_logprobs)
    return self.kl.paid(batch.state) * _distance(self.kl, batch)


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
    return explored(self, batch, batch.spread(values))


def explored(self: Shaped, batch: Batch, values: Tensor) -> Tensor:
    """Advantages of tokens [row token], 0 where masked or held back from learning."""
    known, how = counted(self, batch), self.explore
    values, held = torch.where(known, values, 0.0), torch.zeros_like(batch.trained)
    if how.hold == "clip_cov":
        held = exploration.clip_cov(batch.tokens, batch.engine_logprobs, values, known, how)
    if how.hold == "low_entropy":
        if batch.entropy is None:
            raise ValueError("holding tokens of low entropy needs the entropy filled")
        held = exploration.low_entropy(batch.entropy, known, how.share)
    return torch.where(held, 0.0, values)


def counted(self: Shaped, batch: Batch) -> Tensor:
    """Trained tokens that the means are taken over: all but those of masked trajectories."""
    asked = batch.trained if batch.asked is None else batch.asked
    return asked & _unmasked(self, batch)


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
    """The loss plus the KL where it belongs to the loss and KL-Cov's, less the entropy bonus."""
    seen, old, paid = dict(metrics), batch.old_logprobs, self.kl.paid(batch.state)
    if self.kl.in_loss or self.kl.in_reward:
        if old is None or batch.ref_logprobs is None:
            raise ValueError("a KL in the loss needs ref_logprobs filled")
        now = out.logprobs if self.kl.in_loss else old
        distance = self.kl.per_token(now, old, batch.ref_logprobs)
        loss = loss + paid * distance if self.kl.in_loss else loss
        seen["kl/reference"] = distance.detach()
        seen["kl/coefficient"] = torch.full_like(loss.detach(), paid)
    if self.explore.hold == "kl_cov":
        old, advantage = filled(batch)
        said, how = batch.engine_logprobs, self.explore
        held = exploration.kl_cov(said, advantage, batch.trained, batch.group, how)
        apart = (out.logprobs - old).clamp(-20, 20).abs()
        loss = loss + how.coefficient * torch.where(held, apart, 0.0)
    if self.entropy.wanted:
        if out.entropy is None:
            raise ValueError("an entropy bonus needs the entropy computed")
        paid = self.entropy.paid(batch.state)
        loss = loss - paid * out.entropy
        seen["entropy/mean"] = out.entropy.detach()
        seen["entropy/coefficient"] = torch.full_like(loss.detach(), paid)
    return loss, seen


def clipped(self: Clipped, out: Outputs, batch: Batch) -> Loss:
    """PPO's clip of each token's ratio, and where it stops the gradient."""
    old, advantage = filled(batch)
    return clipped_at(self, losses.ratio(out.logprobs, old), advantage)


def clipped_at(self: Clipped, rho: Tensor, advantage: Tensor) -> Loss:
    """The same of given ratios."""
    bounds = self.clip_low, self.clip_high, self.clip_dual
    share = losses.clipped_share(rho.detach(), advantage, *bounds)
    return losses.clipped(rho, advantage, *bounds), {"clip/share": share}


def filled(batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch's old log-probabilities and advantages, which every ratio needs."""
    if batch.old_logprobs is None or batch.advantages is None:
        raise ValueError("a policy loss needs old_logprobs and advantages")
    return batch.old_logprobs, batch.advantages
