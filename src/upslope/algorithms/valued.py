"""Parts of algorithms with a critic: token rewards, advantages, returns, and whether to learn.

An algorithm takes them as its own, as it does those of ``parts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from upslope import critic
from upslope.algorithms import parts
from upslope.algorithms.parts import Shaped
from upslope.batch import Batch, Claim, Column, Outputs, Read, State
from upslope.chains import Chains, beginnings, explained_variance, gae, places
from upslope.critic import Critic
from upslope.types import Metrics

# A trajectory cut by the length limit has earned what it was given, or goes on as it was valued.
Truncated = Literal["terminal", "bootstrap"]
# What the policy decides on: each token, or what it says in a turn.
Actions = Literal["token", "turn"]
EACH_TOKEN: Actions = "token"
NO_CLAIMS: frozenset[Claim] = frozenset()


class Valued(Shaped, Protocol):
    """The settings of every algorithm here that has a critic."""

    @property
    def gamma(self) -> float: ...

    @property
    def clip_dual(self) -> float: ...

    @property
    def actions(self) -> Actions: ...

    @property
    def truncated(self) -> Truncated: ...

    @property
    def critic(self) -> Critic: ...


class Bootstrapped(Valued, Protocol):
    """Those of one whose values learn from returns."""

    @property
    def lambda_critic(self) -> float: ...


def _needs(self: Valued) -> frozenset[Column]:
    return parts.columns(self) | {"values"}


def _reads(self: Valued) -> frozenset[Read]:
    entropy: frozenset[Read] = frozenset({"entropy"} if self.entropy.wanted else set())
    return entropy | {"logprobs", "values"}


def _claims(self: Valued) -> frozenset[Claim]:
    """Values learn from every reply, and a penalty in the loss is no policy gradient."""
    return NO_CLAIMS if parts.penalised(self) else frozenset({"policy_gradient"})


needs, reads, claims = property(_needs), property(_reads), property(_claims)


def refuse(self: Bootstrapped, discounts: Mapping[str, float]) -> None:
    """ValueError for settings that mean nothing, or not together."""
    parts.check_dual(self.clip_dual)
    if self.actions == "turn" and self.truncated == "bootstrap":
        raise ValueError('truncated="bootstrap" is for actions="token": a turn has no later value')
    if self.overlong.limit and self.truncated == "bootstrap":
        raise ValueError(
            'overlong.limit takes reward off long replies and truncated="bootstrap" says that cut '
            'ones go on: leave the limit out, or set truncated="terminal"'
        )
    for name, value in discounts.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value:g}")


def start(self: Valued) -> State:
    """The critic's state and that of other policy gradients."""
    return {**self.critic.start(), **parts.start(self)}


def advance(self: Valued, state: State, metrics: Metrics) -> State:
    """Both after a step."""
    return self.critic.advance(parts.advance(self, state, metrics), metrics)


def learns(self: Valued, state: State | None) -> bool:
    """Whether explained variance has reached the gate."""
    return (state or self.critic.start())["learns"] > 0


@dataclass(frozen=True, eq=False)
class Course:
    """A batch as steps of its trajectories: rewards and stored values [row token].

    ``chains`` are of the actions: where these are turns, of each one's first token, which has all
    that the turn earned; ``first`` [row token] is where in ``chains`` a token's action is.
    ``unfinished`` [line] are those that go on after their last token, whose value stands for that:
    ``counted`` [row token] are all tokens but these.
    """

    chains: Chains
    first: Tensor
    rewards: Tensor
    values: Tensor
    unfinished: Tensor
    counted: Tensor

    def advantages(self, gamma: float, decay: float | Tensor) -> Tensor:
        """Generalised advantages, 0 on tokens that are not counted."""
        return self._onto(self._gae(gamma, decay))

    def returns(self, gamma: float, decay: float | Tensor) -> Tensor:
        """What values should have been: advantages and values together."""
        return self._onto(self._gae(gamma, decay) + self.values) + (~self.counted) * self.values

    def _gae(self, gamma: float, decay: float | Tensor) -> Tensor:
        return gae(self.rewards, self.values, self.chains, gamma, decay, self.unfinished)

    def _onto(self, found: Tensor) -> Tensor:
        """An action's number onto its tokens."""
        return torch.where(self.counted, found.gather(1, self.first), 0.0)


def course(self: Valued, batch: Batch) -> Course:
    """What tokens earned, with the rest of the outcome and penalties."""
    if batch.values is None:
        raise ValueError("advantages of a critic need values filled")
    chains = Chains.of(batch.trained, batch.trajectory, batch.segment)
    row, token = chains.last()
    rewards = chains.rewards(batch.reward, batch.earned) - parts.kl_paid(self, batch)
    rewards[row, token] -= self.overlong.penalty(chains.count.float())
    values = torch.where(batch.trained, batch.values, 0.0)
    unfinished = batch.truncated[row] & (self.truncated == "bootstrap")
    first = place = places(batch.trained)
    counted = _counted(self, batch, chains)
    if self.actions == "turn":
        first = beginnings(batch.turn, batch.trained)
        rewards = torch.zeros_like(rewards).scatter_add(1, first, rewards)
        begun = batch.trained & (first == place)
        chains = Chains.of(begun, batch.trajectory, batch.segment)
    return Course(chains, first, rewards, values, unfinished, counted)


def counted(self: Valued, batch: Batch) -> Tensor:
    """Trained tokens that the means are taken over."""
    return _counted(self, batch, Chains.of(batch.trained, batch.trajectory, batch.segment))


def _counted(self: Valued, batch: Batch, chains: Chains) -> Tensor:
    found = parts.counted(self, batch)
    if self.truncated == "bootstrap":
        row, token = chains.last()
        found[row, token] &= ~batch.truncated[row]
    return found


def value_loss(self: Bootstrapped, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Of each token, towards returns by ``lambda_critic``; and what values and returns are."""
    if out.values is None or batch.values is None:
        raise ValueError("a value loss needs values filled and read")
    seen = course(self, batch)
    goal = seen.returns(self.gamma, self.lambda_critic)
    shares = critic.halves(batch.tokens, batch.length, batch.trajectory, self.critic.heads)
    loss = self.critic.loss(out.values, goal, seen.values, shares)
    value = self.critic.value(out.values.detach())
    said = {"critic/loss": loss.detach(), "critic/value": value, "critic/return": goal}
    return loss, {**said, **self.critic.outside(goal)}


def report(self: Valued, batch: Batch) -> Metrics:
    """The explained variance of stored values, by what was earned after each token; none where all
    earned the same. Unfinished ones are left out: a value would be explained by itself."""
    seen = course(self, batch)
    goes_on = batch.truncated & (self.truncated == "bootstrap")
    earned, known = seen.returns(self.gamma, 1.0), seen.counted & ~goes_on[:, None]
    explained = explained_variance(earned[known], seen.values[known])
    learned = {"critic/policy_learns": float(learns(self, batch.state))}
    return learned if explained is None else {"critic/explained_variance": explained, **learned}
