"""Parts of algorithms with a Q: what values and Q learn of recorded answers, and what they say."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from upslope import critic
from upslope.batch import Batch, Outputs, State
from upslope.chains import Chains, explained_variance, following, to_go
from upslope.critic import Critic
from upslope.types import Metrics

TWINS = Critic(rate=1.0, twin=True, polyak=0.05, conservative=0.1)


class Judging(Protocol):
    """The settings of every algorithm here that has a Q."""

    @property
    def gamma(self) -> float: ...

    @property
    def tau(self) -> float: ...

    @property
    def critic(self) -> Critic: ...


def refuse(self: Judging) -> None:
    """ValueError for settings that mean nothing together."""
    if not 0 < self.tau < 1 or not 0 <= self.gamma <= 1:
        raise ValueError("tau must lie between 0 and 1, and gamma from 0 to 1")
    if self.critic.form != "scalar" or self.critic.clip:
        raise ValueError('an expectile is of one number: critic.form="scalar", without critic.clip')


def start(self: Judging) -> State:
    """The critic's state."""
    return self.critic.start()


def advance(self: Judging, state: State, metrics: Metrics) -> State:
    """The critic's after a step."""
    return self.critic.advance(state, metrics)


def learns(self: Judging, state: State | None) -> bool:
    """Whether explained variance has reached the gate."""
    return (state or self.critic.start())["learns"] > 0


def better(batch: Batch) -> Tensor:
    """Q - V of each trained token as stored, [row token]."""
    if batch.q is None or batch.values is None:
        raise ValueError("weights by Q need q and values filled")
    return torch.where(batch.trained, batch.q - batch.values, 0.0)


def loss(self: Judging, out: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Of V towards an expectile of the stored Q, and of Q towards reward and the next V."""
    if out.values is None or out.q is None or batch.q is None:
        raise ValueError("a Q loss needs q filled, and values and q read")
    chains = Chains.of(batch.trained, batch.trajectory, batch.segment)
    shares = critic.halves(batch.tokens, batch.length, batch.trajectory, self.critic.heads)[:, None]
    values = self.critic.each(out.values)
    of_values = (critic.expectile(batch.q[..., None] - values, self.tau) * shares).mean(-1)
    later = self.gamma * following(values.detach().amin(-1), chains)
    goal = chains.rewards(batch.reward, batch.earned) + later
    away = (out.q - goal[..., None]) ** 2
    if out.q_logprobs is not None:
        away = away - self.critic.conservative * out.q_logprobs
    of_q = (away * shares).mean(-1)
    seen = {"critic/loss": of_values, "critic/q_loss": of_q, "critic/q": out.q.mean(-1)}
    total = self.critic.weight * (of_values + of_q)
    return total, {name: value.detach() for name, value in seen.items()}


def report(self: Judging, batch: Batch) -> Metrics:
    """The explained variance of stored values, by what was earned after each token."""
    if batch.values is None:
        raise ValueError("explained variance needs values filled")
    chains = Chains.of(batch.trained, batch.trajectory, batch.segment)
    rewards = chains.rewards(batch.reward, batch.earned)
    earned = to_go(rewards, chains, self.gamma)
    explained = explained_variance(earned[batch.trained], batch.values[batch.trained])
    said = {"critic/policy_learns": float(learns(self, batch.state))}
    return said if explained is None else {"critic/explained_variance": explained, **said}
