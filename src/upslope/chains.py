"""Rewards and values along a trajectory to advantages and returns. Pure functions.

The steps of a trajectory are its trained tokens, those of all its rows in order. What an env said
between two of them is no step: it is discounted by nothing, and nothing is read off its values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PerToken = Float[Tensor, "row token"]
PerStep = Float[Tensor, "line place"]


@dataclass(frozen=True, eq=False)
class Chains:
    """Where trained tokens are in their rows and in their trajectories' lines.

    ``row`` and ``token`` [step] are places in a batch, ``line`` and ``place`` [step] those in a
    table of one line a trajectory; ``count`` [line] is each one's number of steps.
    """

    row: Int[Tensor, " step"]
    token: Int[Tensor, " step"]
    line: Int[Tensor, " step"]
    place: Int[Tensor, " step"]
    count: Int[Tensor, " line"]
    shape: torch.Size

    @staticmethod
    def of(
        trained: Bool[Tensor, "row token"],
        trajectory: Int[Tensor, " row"],
        segment: Int[Tensor, " row"],
    ) -> Chains:
        """Rows of one trajectory follow each other by ``segment``, whatever their order here."""
        order = segment.argsort(stable=True)
        order = order[trajectory[order].argsort(stable=True)]
        rank, token = trained[order].nonzero(as_tuple=True)
        row = order[rank]
        _, line, count = torch.unique_consecutive(
            trajectory[row], return_inverse=True, return_counts=True
        )
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[line]
        return Chains(row, token, line, place, count, trained.shape)

    def lay(self, column: PerToken) -> PerStep:
        """A column's trained tokens, one trajectory a line; 0 past its end."""
        longest = int(self.count.max()) if len(self.count) else 0
        out = column.new_zeros(len(self.count), longest)
        out[self.line, self.place] = column[self.row, self.token]
        return out

    def back(self, laid: PerStep) -> PerToken:
        """Lines as a column again; 0 off the trained tokens."""
        out = laid.new_zeros(self.shape)
        out[self.row, self.token] = laid[self.line, self.place]
        return out

    def last(self) -> tuple[Int[Tensor, " line"], Int[Tensor, " line"]]:
        """Row and token of each trajectory's last step."""
        ends = self.count.cumsum(0) - 1
        return self.row[ends], self.token[ends]

    def at_end(self, values: Float[Tensor, " row"]) -> PerToken:
        """A trajectory's value on its last step, 0 on all others."""
        out = values.new_zeros(self.shape)
        row, token = self.last()
        out[row, token] = values[row]
        return out

    def rewards(self, total: Float[Tensor, " row"], earned: PerToken | None) -> PerToken:
        """What was ``earned`` where it was, and what that leaves of the ``total`` at the end."""
        out = self.at_end(total)
        if earned is None:
            return out
        laid = self.lay(earned)
        row, token = self.last()
        out[row, token] -= laid.sum(1)
        return out + self.back(laid)


def beginnings(
    turn: Int[Tensor, "row token"], trained: Bool[Tensor, "row token"]
) -> Int[Tensor, "row token"]:
    """Where in its row a trained token's turn has its first trained one."""
    number = torch.where(trained, turn, -1)
    known = torch.nn.functional.pad(number.cummax(1).values, (1, 0), value=-1)[:, :-1]
    # Turns follow each other, and what is not trained may lie within one.
    return torch.where(number > known, places(turn), 0).cummax(1).values


def places(column: Tensor) -> Int[Tensor, "row token"]:
    """Each token's place in its row."""
    return torch.arange(column.shape[1], device=column.device).expand(column.shape)


def following(values: PerToken, chains: Chains) -> PerToken:
    """The value of the next step's state, on each step; 0 after the last."""
    laid = chains.lay(values)
    ahead = torch.zeros_like(laid)
    ahead[:, :-1] = laid[:, 1:]
    return chains.back(ahead)


def gae(
    rewards: PerToken,
    values: PerToken,
    chains: Chains,
    gamma: float,
    decay: float | Float[Tensor, " line"],
    unfinished: Bool[Tensor, " line"] | None = None,
) -> PerToken:
    """A_t = r_t + gamma V_t+1 - V_t + gamma decay A_t+1 over steps. GAE, arXiv:1506.02438.

    ``decay`` is lambda, of all or of each trajectory. One that is ``unfinished`` goes on: the value
    that its last token was chosen at stands for all that follows, and that token gets 0.
    """
    r, v = chains.lay(rewards), chains.lay(values)
    delta = r + gamma * chains.lay(following(values, chains)) - v
    if unfinished is not None and len(chains.count):
        lines = unfinished.nonzero()[:, 0]
        delta[lines, chains.count[lines] - 1] = 0.0
    out, carried = torch.empty_like(delta), delta.new_zeros(len(delta))
    factor = gamma * decay
    for t in range(delta.shape[1] - 1, -1, -1):
        carried = delta[:, t] + factor * carried
        out[:, t] = carried
    return chains.back(out)


def to_go(rewards: PerToken, chains: Chains, discount: float) -> PerToken:
    """The discounted sum of a trajectory's rewards from each step on."""
    return gae(rewards, torch.zeros_like(rewards), chains, discount, 1.0)


def length_adaptive(count: Int[Tensor, " line"], alpha: float) -> Float[Tensor, " line"]:
    """lambda = 1 - 1 / (alpha length), at least 0, so that the reward reaches the beginning of long
    trajectories as well as of short ones. VAPO, arXiv:2504.05118."""
    return (1 - 1 / (alpha * count)).clamp(min=0.0)


def whitened(values: PerToken, counted: Bool[Tensor, "row token"], eps: float = 1e-8) -> PerToken:
    """(A - mean) / (std + eps) over the tokens counted; as they are where these are fewer than 2.

    All the same ones give 0.
    """
    chosen = values[counted]
    if len(chosen) < 2:
        return torch.where(counted, values, 0.0)
    # Counted from the lowest, so that equal values give exactly 0.
    above = chosen - chosen.min()
    away = values - chosen.min() - above.mean()
    return torch.where(counted, away / (above.std(correction=1) + eps), 0.0)


def explained_variance(returns: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> float | None:
    """1 - Var(R - V) / Var(R): 1 for values that know every return, 0 for a constant; None where
    the returns do not vary, so that there is nothing to explain."""
    spread = float(returns.double().var(correction=0)) if len(returns) else 0.0
    if spread <= 1e-12:
        return None
    return 1 - float((returns.double() - values.double()).var(correction=0)) / spread
