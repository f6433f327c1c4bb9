"""What a reward model learns from, as token rows with the places that are scored: pairs, ratings,
steps. Each says its own loss; the loop that trains on them is ``training``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from upslope.models.reward_model import RewardModel
from upslope.preferences import losses
from upslope.preferences.pair import Pair, dialogue
from upslope.types import UserError

FEWEST = 8  # pairs, ratings or solutions; fewer say nothing that holds elsewhere


class Row(NamedTuple):
    """Tokens, and after which of them a score is read."""

    tokens: Sequence[int]
    at: Sequence[int]


class Lesson(Protocol):
    """Things to learn from, each of one or more rows."""

    def __len__(self) -> int:
        """How many there are."""

    def rows(self, one: int) -> Sequence[Row]:
        """Those of one of them."""

    def loss(self, chosen: Sequence[int], raw: Float[Tensor, "n head"]) -> Float[Tensor, " one"]:
        """Of each of these, by the scores at all places of their rows, in their order."""


@dataclass(frozen=True)
class PairLoss:
    """How pairs are compared: see ``losses.bradley_terry``. ``margins``: whether those that pairs
    were given count."""

    margins: bool = False
    centring: float = 0.0
    smoothing: float = 0.0


@dataclass(frozen=True, eq=False)
class Compared:
    """Pairs: ``sides`` the better one first, ``sign`` what a head says of them: 1 where it agrees,
    -1 where it prefers the other side, 0 where it has no preference."""

    sides: Sequence[tuple[Sequence[int], Sequence[int]]]
    sign: NDArray[np.float32]  # [pair head]
    margin: NDArray[np.float32]  # [pair]
    how: PairLoss = PairLoss()

    @classmethod
    def of(cls, model: RewardModel, pairs: Sequence[Pair], how: PairLoss) -> Compared:
        """Pairs in a model's tokens; its first head learns who was chosen, the others ``info``."""
        _refuse_few(len(pairs), "pairs")
        sides = []
        for pair in pairs:
            if pair.chosen == pair.rejected:
                raise UserError(
                    f"a pair of problem {pair.problem.id!r} has two equal sides, so that neither "
                    "wins: leave it out"
                )
            both = [model.encode(dialogue(pair.problem, t)) for t in (pair.chosen, pair.rejected)]
            sides.append((both[0], both[1]))
        sign = [[1.0, *(_preferred(pair, name) for name in model.names[1:])] for pair in pairs]
        margin = [float(pair.info.get("margin", 0.0)) for pair in pairs]
        return cls(sides, np.array(sign, np.float32), np.array(margin, np.float32), how)

    def __len__(self) -> int:
        return len(self.sides)

    def rows(self, one: int) -> Sequence[Row]:
        return [Row(tokens, (len(tokens) - 1,)) for tokens in self.sides[one]]

    def loss(self, chosen: Sequence[int], raw: Tensor) -> Tensor:
        sides = raw.unflatten(0, (len(chosen), 2))
        sign = torch.from_numpy(self.sign[list(chosen)]).to(raw.device)
        margin = torch.from_numpy(self.margin[list(chosen)]).to(raw.device) * self.how.margins
        ahead, both = sign * (sides[:, 0] - sides[:, 1]), sides[:, 0] + sides[:, 1]
        each = losses.bradley_terry(
            (both + ahead).flatten() / 2,
            (both - ahead).flatten() / 2,
            margin[:, None].expand_as(ahead).flatten(),
            self.how.centring,
            self.how.smoothing,
        ).view_as(ahead)
        return (each * sign.abs()).sum(1) / sign.abs().sum(1).clamp(min=1)


@dataclass(frozen=True, eq=False)
class Rated:
    """Replies with a number for each head."""

    replies: Sequence[Sequence[int]]
    target: NDArray[np.float32]  # [reply head]

    @classmethod
    def of(cls, model: RewardModel, pairs: Sequence[Pair]) -> Rated:
        """Both sides of pairs whose ``info`` says what they earned by each head."""
        _refuse_few(len(pairs), "pairs")
        replies, target = [], []
        for pair in pairs:
            for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                replies.append(model.encode(dialogue(pair.problem, text)))
                target.append([earned(pair, name, side) for name in model.names])
        return cls(replies, np.array(target, np.float32))

    def __len__(self) -> int:
        return len(self.replies)

    def rows(self, one: int) -> Sequence[Row]:
        return [Row(self.replies[one], (len(self.replies[one]) - 1,))]

    def loss(self, chosen: Sequence[int], raw: Tensor) -> Tensor:
        target = torch.from_numpy(self.target[list(chosen)]).to(raw.device)
        return losses.regression(raw.flatten(), target.flatten()).view_as(raw).mean(1)


@dataclass(frozen=True, eq=False)
class Stepped:
    """Solutions in steps, each with the share of what follows from it that ends right."""

    solutions: Sequence[Row]
    target: Sequence[NDArray[np.float32]]  # [step] each

    def __len__(self) -> int:
        return len(self.solutions)

    def rows(self, one: int) -> Sequence[Row]:
        return [self.solutions[one]]

    def loss(self, chosen: Sequence[int], raw: Tensor) -> Tensor:
        target = torch.from_numpy(np.concatenate([self.target[i] for i in chosen])).to(raw.device)
        each = losses.step_cross_entropy(raw[:, 0], target)
        counts = [len(self.target[i]) for i in chosen]
        return torch.stack([own.mean() for own in each.split(counts)])


def earned(pair: Pair, name: str, side: str) -> float:
    """What a side earned by a head; UserError where the pair does not say."""
    value = pair.info.get(f"{name}_{side}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        ends = ("_chosen", "_rejected")
        known = sorted({k.rpartition("_")[0] for k in pair.info if k.endswith(ends)})
        raise UserError(
            f"heads names {name!r}, and a pair of problem {pair.problem.id!r} has no number "
            f"{name}_{side}: it has numbers for {', '.join(known) or 'no head'}"
        )
    return float(value)


def _preferred(pair: Pair, name: str) -> float:
    return float(np.sign(earned(pair, name, "chosen") - earned(pair, name, "rejected")))


def _refuse_few(count: int, what: str) -> None:
    if count < FEWEST:
        raise UserError(f"{count} {what} are too few to learn from: give at least {FEWEST}")
