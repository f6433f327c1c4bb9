"""Surrogate losses, KL estimators and the weights that aggregate them. Pure functions, [row token].

Log-ratios are clamped to +-20 before ``exp``. A loss is per token; ``sum(loss * weights)`` over an
update is its value, whatever the split into micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping
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
Importance = Literal["truncate", "mask"]


def ratio(logprobs: PerToken, old: PerToken) -> PerToken:
    """pi / old, from clamped log-probabilities."""
    return (logprobs - old).clamp(-20, 20).exp()


def sequence_ratio(logprobs: PerToken, old: PerToken, trained: Mask, trajectory: Ids) -> PerToken:
    """exp(mean of log pi / old over a trajectory's trained tokens). GSPO, arXiv:2507.18071.

    On each of its tokens as sg(s) pi / sg(pi): the value is s, and under a mean over the
    trajectory's tokens the gradient is that of s.
    """
    apart = torch.where(trained, (logprobs - old).detach(), 0.0).sum(1)
    ids, member = torch.unique(trajectory, return_inverse=True)
    total = apart.new_zeros(len(ids)).index_add(0, member, apart)
    count = apart.new_zeros(len(ids)).index_add(0, member, trained.sum(1).to(apart.dtype))
    s = (total / count.clamp(min=1)).clamp(-20, 20).exp()
    return s[member][:, None] * (logprobs - logprobs.detach()).exp()


def policy_gradient(logprobs: PerToken, old: PerToken, advantages: PerToken) -> PerToken:
    """-A sg(pi / old) log pi: REINFORCE at ratio 1, importance-weighted away from it."""
    return -ratio(logprobs, old).detach() * advantages * logprobs


def clipped(
    rho: PerToken, advantages: PerToken, low: float, high: float, dual: float = 0.0
) -> PerToken:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A): PPO's clip with separate bounds.

    ``dual`` above 0: where A < 0 the loss is at most ``-dual * A`` (dual clip, arXiv:1912.09729).
    """
    loss = -torch.minimum(rho * advantages, rho.clamp(1 - low, 1 + high) * advantages)
    if not dual:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual * advantages), loss)


def clipped_surrogate(
    logprobs: PerToken,
    old: PerToken,
    advantages: PerToken,
    low: float,
    high: float,
    dual: float | None = None,
) -> PerToken:
    """``clipped`` on the ratio of each token (arXiv:1707.06347, 2503.14476)."""
    return clipped(ratio(logprobs, old), advantages, low, high, dual or 0.0)


def clipped_weight(
    logprobs: PerToken, old: PerToken, advantages: PerToken, high: float
) -> PerToken:
    """CISPO: clip the importance weight, not the objective (arXiv:2506.13585; upper bound only)."""
    return -ratio(logprobs, old).clamp(max=high).detach() * advantages * logprobs


def clipped_share(
    rho: PerToken, advantages: PerToken, low: float, high: float, dual: float = 0.0
) -> PerToken:
    """1 where the clip of the surrogate stops the gradient."""
    above = (rho > 1 + high) & (advantages > 0)
    below = ((rho < 1 - low) | (rho > (dual or torch.inf))) & (advantages < 0)
    return (above | below).to(rho.dtype)


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


def corrected_kl(logprobs: PerToken, old: PerToken, ref: PerToken, kind: KLKind) -> PerToken:
    """An estimator on tokens sampled from ``old`` whose gradient is that of KL(pi || ref).

    rho k1 and rho k3 with the gradient taken through rho = pi / old (DeepSeek-V3.2,
    arXiv:2512.02556); k2 with sg(rho). Per token, as ``kl``.
    """
    rho = ratio(logprobs, old)
    return (rho.detach() if kind == "k2" else rho) * kl(logprobs, ref, kind)


@dataclass(frozen=True)
class KL:
    """Distance to the reference policy, in the loss or in the reward (never both).

    In the reward the trajectory's KL so far is subtracted from its total before any baseline; that
    takes ``k1``, since the others in its place do not have the gradient of KL(pi || ref).
    ``corrected``: a KL in the loss has the gradient of KL(pi || ref), off-policy too. ``target``
    above 0, in nats a token, adapts the coefficient from ``coefficient`` on: after a step it is
    multiplied by 1 + rate * clip(KL / target - 1, -0.2, 0.2) (arXiv:1909.08593).
    """

    coefficient: float = 0.0
    kind: KLKind = "k3"
    place: Literal["loss", "reward"] = "loss"
    corrected: bool = False
    target: float = 0.0
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            raise ValueError(f"kl.coefficient must not be negative, got {self.coefficient}")
        if min(self.target, self.rate) < 0 or (self.target > 0) > (self.coefficient > 0):
            raise ValueError(
                f"kl.target={self.target:g} adapts kl.coefficient={self.coefficient:g} at "
                f"kl.rate={self.rate:g}: all of these must be above 0"
            )
        if self.kind == "k1" and self.in_loss and not self.corrected:
            raise ValueError(
                "k1 as a loss has an expected gradient of 0: "
                'use kl.kind = "k2" or "k3", kl.corrected = true, or k1 with kl.place = "reward"'
            )
        if self.kind != "k1" and self.in_reward:
            raise ValueError(
                f"{self.kind} as a reward drives a policy that is far from the reference away: "
                'use kl.kind = "k1", or kl.place = "loss"'
            )
        if self.corrected and self.place == "reward":
            raise ValueError(
                "kl.corrected is about the gradient of a KL in the loss, and a reward has none: "
                'leave it out, or use kl.place = "loss"'
            )

    @property
    def in_loss(self) -> bool:
        return self.coefficient > 0 and self.place == "loss"

    @property
    def in_reward(self) -> bool:
        return self.coefficient > 0 and self.place == "reward"

    def start(self) -> Mapping[str, float]:
        """The coefficient now; nothing where it stays as it is."""
        return {"kl": self.coefficient} if self.target else {}

    def advance(
        self, state: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The state after a step with this ``kl/reference``; the same where none was seen."""
        seen = metrics.get("kl/reference")
        if not self.target or seen is None:
            return state
        error = min(max(seen / self.target - 1, -0.2), 0.2)
        return {**state, "kl": state["kl"] * (1 + self.rate * error)}

    def paid(self, state: Mapping[str, float] | None) -> float:
        """The coefficient of this step."""
        return (state or self.start())["kl"] if self.target else self.coefficient

    def per_token(self, logprobs: PerToken, old: PerToken, ref: PerToken) -> PerToken:
        """The estimator chosen, without its coefficient."""
        if self.corrected:
            return corrected_kl(logprobs, old, ref, self.kind)
        return kl(logprobs, ref, self.kind)


@dataclass(frozen=True)
class Entropy:
    """A bonus of ``coefficient`` times the mean entropy of the tokens' distributions.

    ``target`` above 0 adapts it (Skywork-OR1, arXiv:2505.22312): after a step whose entropy is
    below the target the coefficient rises by ``step``, else it falls, never under 0; the bonus is
    paid only after a step whose entropy was at most the target.
    """

    coefficient: float = 0.0
    target: float = 0.0
    step: float = 0.005

    def __post_init__(self) -> None:
        if min(self.coefficient, self.target, self.step) < 0:
            raise ValueError("entropy's coefficient, target and step must not be negative")

    @property
    def wanted(self) -> bool:
        """Whether the loss reads the entropy."""
        return self.coefficient > 0 or self.target > 0

    def start(self) -> Mapping[str, float]:
        """The coefficient and what of it is paid now; nothing where it stays as it is."""
        return {"coefficient": self.coefficient, "paid": 0.0} if self.target else {}

    def advance(
        self, state: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The state after a step with this ``entropy/mean``; the same where none was seen."""
        seen = metrics.get("entropy/mean")
        if not self.target or seen is None:
            return state
        change = self.step if seen < self.target else -self.step
        coefficient = max(0.0, state["coefficient"] + change)
        paid = coefficient if seen <= self.target else 0.0
        return {**state, "coefficient": coefficient, "paid": paid}

    def paid(self, state: Mapping[str, float] | None) -> float:
        """The coefficient of this step's bonus."""
        return (state or self.start())["paid"] if self.target else self.coefficient


def bounded(weights: Tensor, how: Importance, floor: float, cap: float) -> Tensor:
    """Importance weights within [floor, cap]: cut to it, or 0 outside of it.

    "truncate" with a floor of 0 is TIS; "mask" is IcePop's and MIS's form.
    """
    cut = weights.clamp(floor, cap)
    return cut if how == "truncate" else torch.where(cut == weights, weights, 0.0)


def effective_share(weights: Tensor) -> Tensor:
    """Effective sample size over sample size: (sum w)^2 / (n sum w^2); 0 where all are 0."""
    square = len(weights) * (weights**2).sum()
    return torch.where(square > 0, weights.sum() ** 2 / square.clamp(min=1e-30), 0.0)


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
