"""A critic's settings, and pure functions of what its heads say: values, losses, and when they may
be trusted. The heads themselves are in ``models.estimator``; no model here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from upslope.types import UserError

PerToken = Float[Tensor, "row token"]
Raw = Float[Tensor, "row token head bin"]
MEMORY = 0.7  # of the moving average of explained variance: the last three steps are most of it
GAUSS = 0.75  # HL-Gauss's standard deviation in widths of a bin (arXiv:2403.03950)


@dataclass(frozen=True)
class Critic:
    """Values beside a policy. Each part of their regularisation is off until it is set.

    ``place``: heads on the policy's own trunk, or on a copy of the policy from the stage's start
    that is trained apart. ``trunk``: whether the heads' gradient goes on into that trunk.
    ``begins``: with values of 0, or with what the critic of the stage before learned.
    ``rate``: their learning rate, in those of the policy's. ``weight``: their loss's.

    ``form``: one number, or probabilities of ``bins`` values from ``low`` to ``high`` (arXiv:
    2403.03950), which should reach some bins beyond what can be earned (``critic/outside_share``).
    ``clip``: how far a value may move from the stored one and still lower its loss (arXiv:
    1707.06347). ``polyak``: part of the way that a copy of the heads, which stored values come
    from, follows them in each update; 0 is no copy. ``twin``: two heads that each learn from half
    of the replies, and the lower value counts (arXiv:1802.09477). ``l2``: pulls weights to where
    they started (arXiv:2308.11958). ``conservative``: times the value is added to its loss, and
    times -log softmax of Q (CQL, arXiv:2006.04779) to Q's. ``decode``: sample from log policy +
    decode (Q - V); 0 is the policy.

    ``gate``: explained variance that values must reach before the policy learns (arXiv:2503.01491),
    within ``pretrain`` steps; below ``floor`` it waits once more.
    """

    place: Literal["trunk", "separate"] = "trunk"
    trunk: Literal["learns", "stopped"] = "learns"
    begins: Literal["zero", "stage"] = "zero"
    rate: float = 10.0
    weight: float = 1.0
    form: Literal["scalar", "two_hot", "hl_gauss"] = "scalar"
    bins: int = 51
    low: float = -0.25
    high: float = 1.25
    clip: float = 0.0
    polyak: float = 0.0
    twin: bool = False
    l2: float = 0.0
    conservative: float = 0.0
    decode: float = 0.0
    gate: float = 0.0
    pretrain: int = 0
    floor: float | None = None

    def __post_init__(self) -> None:
        amounts = {"rate": self.rate, "weight": self.weight, "clip": self.clip, "l2": self.l2}
        amounts |= {"conservative": self.conservative, "decode": self.decode, "gate": self.gate}
        for name, value in amounts.items():
            if value < 0:
                raise ValueError(f"critic.{name} must not be negative, got {value:g}")
        if not 0 <= self.polyak < 1:
            raise ValueError(f"critic.polyak is a part between 0 and 1, got {self.polyak:g}")
        if self.bins < 2 or self.low >= self.high:
            raise ValueError("critic.bins must be at least 2 and critic.low less than critic.high")
        if self.clip and (self.twin or self.form != "scalar"):
            raise ValueError(
                'critic.clip is of one scalar value: leave it out, or twin and form = "scalar"'
            )
        if (self.gate > 0) != (self.pretrain > 0):
            raise ValueError(
                f"critic.gate={self.gate:g} and critic.pretrain={self.pretrain} belong together: "
                "values that were never learned stay below any gate, so set both or neither"
            )
        if self.gate >= 1 or (self.floor is not None and not self.floor < self.gate > 0):
            raise ValueError("critic.gate must be less than 1, and critic.floor less than a gate")
        if self.decode and self.place != "trunk":
            raise ValueError('critic.decode adds Q to the policy\'s head: use critic.place="trunk"')

    @property
    def heads(self) -> int:
        """How many, of values and of Q."""
        return 2 if self.twin else 1

    @property
    def width(self) -> int:
        """Numbers that a value is said in."""
        return 1 if self.form == "scalar" else self.bins

    def each(self, raw: Raw) -> Float[Tensor, "row token head"]:
        """The value that each head says."""
        if self.form == "scalar":
            return raw[..., 0]
        return raw.softmax(-1) @ self._centres(raw)

    def value(self, raw: Raw) -> PerToken:
        """The lowest of the heads' values."""
        return self.each(raw).amin(-1)

    def loss(
        self, raw: Raw, returns: PerToken, stored: PerToken, shares: Float[Tensor, "row head"]
    ) -> PerToken:
        """Half the squared distance of values to returns, or the cross-entropy of their bins, with
        what else is set; the mean over heads, each with its ``shares`` of a row."""
        value = self.each(raw)
        goal = returns[..., None]
        if self.form == "scalar":
            away = (value - goal) ** 2
            if self.clip:
                near = stored[..., None] + (value - stored[..., None]).clamp(-self.clip, self.clip)
                away = torch.maximum(away, (near - goal) ** 2)
            loss = 0.5 * away
        else:
            loss = -(self.target(returns)[..., None, :] * raw.log_softmax(-1)).sum(-1)
        loss = loss + self.conservative * value
        return self.weight * (loss * shares[:, None]).mean(-1)

    def outside(self, returns: PerToken) -> dict[str, PerToken]:
        """Where returns lie beyond all bins, which say the nearest in their place."""
        if self.form == "scalar":
            return {}
        beyond = (returns < self.low) | (returns > self.high)
        return {"critic/outside_share": beyond.to(returns.dtype)}

    def target(self, returns: PerToken) -> Float[Tensor, "row token bin"]:
        """Returns as probabilities of the bins: shared by the nearest two, or a Gaussian's."""
        centres = self._centres(returns)
        inside, step = returns.clamp(self.low, self.high)[..., None], float(centres[1] - centres[0])
        if self.form == "two_hot":
            return (1 - (inside - centres).abs() / step).clamp(min=0)
        edges = torch.cat([centres - step / 2, centres[-1:] + step / 2])
        below = torch.special.ndtr((edges - inside) / (GAUSS * step))
        share: Tensor = (below[..., 1:] - below[..., :-1]) / (below[..., -1:] - below[..., :1])
        return share

    def _centres(self, like: Tensor) -> Float[Tensor, " bin"]:
        return torch.linspace(self.low, self.high, self.bins, dtype=like.dtype, device=like.device)

    def start(self) -> Mapping[str, float]:
        """Whether the policy learns, the moving average that says so, and the steps waited."""
        return {"learns": float(not self.gate), "explained": 0.0, "waited": 0.0}

    def advance(
        self, state: Mapping[str, float], metrics: Mapping[str, float]
    ) -> Mapping[str, float]:
        """The state after a step; UserError where ``pretrain`` steps did not reach the gate."""
        if not self.gate:
            return state
        seen = metrics.get("critic/explained_variance", state["explained"])
        explained = MEMORY * state["explained"] + (1 - MEMORY) * seen
        low = self.gate if not state["learns"] else self.floor
        learns = low is None or explained >= low
        waited = 0.0 if learns else state["waited"] + 1
        if waited >= self.pretrain:
            raise UserError(
                f"explained variance is {explained:.2f} after {self.pretrain} steps in which values"
                f" alone were learned, below critic.gate={self.gate:g}: raise critic.pretrain or "
                "critic.rate, or lower the gate"
            )
        return {**state, "learns": float(learns), "explained": explained, "waited": waited}


def expectile(away: Tensor, tau: float) -> Tensor:
    """|tau - 1(away < 0)| away^2: above 1/2 what lies above counts more. IQL, arXiv:2110.06169."""
    return torch.where(away < 0, 1 - tau, tau) * away**2


def halves(
    tokens: Tensor, length: Tensor, trajectory: Tensor, heads: int
) -> Float[Tensor, "row head"]:
    """What each head learns of a row: all, or for twins twice of about half of the trajectories.

    Twins that start alike and see the same would stay alike. Which half is said by the
    trajectory's tokens, so that no split or order of rows changes it.
    """
    if heads == 1:
        return torch.ones(len(tokens), 1, device=tokens.device)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    odd = 2654435761 * (place + 1) % 65521
    words = torch.where(place < length[:, None], (tokens + 1) * odd, 0)
    _, line = torch.unique(trajectory, return_inverse=True)
    said = words.new_zeros(int(line.max()) + 1).index_add(0, line, words.sum(1) % 65521)
    first = (said * 40503 % 65521 % 2 == 0)[line]
    return 2.0 * F.one_hot(first.long(), 2).float()
