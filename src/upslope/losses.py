"""Surrogate losses, KL estimators and the weights that aggregate them. Pure functions, [row token].

Log-ratios are clamped to +-20 before ``exp``. A loss is per token; ``sum(loss * weights)`` over an
update is its value, whatever the split into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PerToken = Float[Tensor, "row token"]
Mask = Bool[Tensor, "row token"]
Ids = Int[Tensor, " row"]
Aggregation = Literal["sequence", "token", "prompt", "constant"]
KLKind = Literal["k1", "k2", "k3"]


def ratio(logprobs: PerToken, old: PerToken) -> PerToken:
    """pi / old, from clamped log-probabilities."""
    return (logprobs - old).clamp(-20, 20).exp()


def policy_gradient(logprobs: PerToken, old: PerToken, advantages: PerToken) -> PerToken:
    """-A sg(pi / old) log pi: REINFORCE at ratio 1, importance-weighted away from it."""
    return -ratio(logprobs, old).detach() * advantages * logprobs


def clipped_surrogate(
    logprobs: PerToken,
    old: PerToken,
    advantages: PerToken,
    low: float,
    high: float,
    dual: float | None = None,
) -> PerToken:
    """PPO's clip with separate bounds (arXiv:1707.06347, 2503.14476).

    ``dual``: where A < 0 the loss is at most ``-dual * A`` (dual clip, arXiv:1912.09729).
    """
    rho = ratio(logprobs, old)
    loss = -torch.minimum(rho * advantages, rho.clamp(1 - low, 1 + high) * advantages)
    if dual is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual * advantages), loss)


def clipped_weight(
    logprobs: PerToken, old: PerToken, advantages: PerToken, high: float
) -> PerToken:
    """CISPO: clip the importance weight, not the objective (arXiv:2506.13585; upper bound only)."""
    return -ratio(logprobs, old).clamp(max=high).detach() * advantages * logprobs


def clipped_share(
    logprobs: PerToken, old: PerToken, advantages: PerToken, low: float, high: float
) -> PerToken:
    """1 where the clip of the surrogate stops the gradient."""
    rho = ratio(logprobs, old)
    above = (rho > 1 + high) & (advantages > 0)
    below = (rho < 1 - low) & (advantages < 0)
    return (above | below).to(logprobs.dtype)


def kl(logprobs: PerToken, ref: PerToken, kind: KLKind) -> PerToken:
    """Estimators of KL(pi || ref) on tokens sampled from pi.

    k1 = log pi/ref (unbiased; as a loss its expected gradient is 0), k2 = k1^2 / 2 (as a loss,
    per token and on-policy, the gradient of KL(pi || ref)), k3 = ref/pi - 1 + k1 (>= 0, unbiased;
    as a loss the gradient of KL(ref || pi)).
    """
    k1 = (logprobs - ref).clamp(-20, 20)
    if kind == "k1":
        return k1
    if kind == "k2":
        return 0.5 * k1**2
    return (-k1).exp() - 1 + k1


@dataclass(frozen=True)
class KL:
    """Distance to the reference policy, in the loss or in the reward (never both).

    In the reward the trajectory's KL so far is subtracted from its total before any baseline.
    """

    coefficient: float = 0.0
    kind: KLKind = "k3"
    place: Literal["loss", "reward"] = "loss"

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"kl.coefficient must not be negative, got {self.coefficient}")
        if self.kind == "k1" and self.place == "loss" and self.coefficient:
            raise ValueError(
                "k1 as a loss has an expected gradient of 0: "
                'use kl.kind = "k2" or "k3", or kl.place = "reward"'
            )

    @property
    def in_loss(self) -> bool:
        return self.coefficient > 0 and self.place == "loss"

    @property
    def in_reward(self) -> bool:
        return self.coefficient > 0 and self.place == "reward"


def importance(old: PerToken, engine: PerToken, cap: float) -> PerToken:
    """Truncated weight of the learner's old policy over the engine's: min(old / engine, cap)."""
    return ratio(old, engine).clamp(max=cap)


def token_mean(trained: Mask) -> PerToken:
    """The mean over all trained tokens of the update."""
    mask = trained.float()
    return mask / mask.sum().clamp(min=1)


def sequence_mean(trained: Mask, trajectory: Ids) -> PerToken:
    """The mean over trajectories of each one's mean over its tokens (GRPO).

    Trajectories without a trained token are not counted.
    """
    return _mean_of_means(trained, trajectory)


def prompt_mean(trained: Mask, group: Ids) -> PerToken:
    """The mean over groups of each one's mean over its tokens (DAPO's and ScaleRL's form)."""
    return _mean_of_means(trained, group)


def constant_length(trained: Mask, trajectory: Ids, length: int) -> PerToken:
    """Sum over tokens / (trajectories * a constant length). Dr. GRPO, arXiv:2503.20783.

    ``length`` is the configured maximum, never the padded width.
    """
    count = len(torch.unique(trajectory[trained.any(1)]))
    return trained.float() / (max(count, 1) * length)


def _mean_of_means(trained: Mask, unit: Ids) -> PerToken:
    ids, member = torch.unique(unit, return_inverse=True)
    counts = trained.new_zeros(len(ids), dtype=torch.float32)
    counts = counts.index_add(0, member, trained.sum(1).float())
    units = (counts > 0).sum().clamp(min=1)
    each: Tensor = counts[member].clamp(min=1) * units
    return trained.float() / each[:, None]


def aggregate(
    how: Aggregation, trained: Mask, trajectory: Ids, group: Ids, length: int = 1
) -> PerToken:
    """Weights by name; ``length`` serves "constant" alone."""
    if how == "sequence":
        return sequence_mean(trained, trajectory)
    if how == "token":
        return token_mean(trained)
    if how == "prompt":
        return prompt_mean(trained, group)
    return constant_length(trained, trajectory, length)
