"""GiGPO: groups of trajectories, and groups of turns that began alike. arXiv:2505.10978.

    A = A of the trajectory + step * A of the turn
    A of a turn = its discounted return, compared with the group's turns that began in its state

Both are those of the algorithm inside, in the paper GRPO. States are what an env's ``Reply.state``
calls them. A first turn has none: all of a group begin alike, which is the trajectory's comparison
already (the paper makes it twice). So a trajectory of one turn has the plain algorithm's numbers. A
state that was met once teaches nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, final

import torch
from torch import Tensor

from upslope import credit
from upslope.algorithms import ALGORITHMS, inner, nesting
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.unroll import Unrolled, unrolled
from upslope.batch import Algorithm, Batch
from upslope.types import Group


@final
@dataclass(frozen=True)
class GiGPO:
    """``step``: the weight of the turns' advantages. ``discount``: of a later turn's reward."""

    of: Annotated[Algorithm, ALGORITHMS] = GRPO()
    step: float = 1.0
    discount: float = 0.95

    needs, reads, couples = inner.needs, inner.reads, inner.couples
    claims, compares = inner.claims, inner.compares
    start, advance, report = inner.start, inner.advance, inner.report
    weights, loss = inner.weights, inner.loss

    def __post_init__(self) -> None:
        if self.step < 0 or not 0 <= self.discount <= 1:
            raise ValueError("step must not be negative, and discount lies between 0 and 1")
        nesting.refuse(self.of)

    def keep(self, group: Group) -> bool:
        # Equal rewards, earned after unequally many turns, are unequal returns.
        named = any(turn.state for play in group.trajectories for turn in play.turns)
        return self.of.keep(group) or (named and any(r.total for r in group.rewards if r.valid))

    def advantages(self, batch: Batch) -> Tensor:
        whole, turns = self.of.advantages(batch), unrolled(batch)
        reward = returns(turns, self.discount)
        alone = int(turns.anchor.max()) + 1 + torch.arange(len(reward))
        group = torch.where(turns.anchor < 0, alone, turns.anchor)
        # Of the rewards alone: penalties are the trajectory's.
        view = replace(turns.grouped(reward, group, turns.anchor >= 0), bare=True)
        return whole + self.step * turns.folded(self.of.advantages(view), batch.tokens)


def returns(turns: Unrolled, discount: float) -> Tensor:
    """[turn]: discounted, with what no turn is said to have earned at the trajectory's end."""
    plays = torch.zeros(int(turns.play.max()) + 1).index_add(0, turns.play, turns.earned)
    last = torch.zeros_like(plays, dtype=torch.int64)
    last = last.scatter_reduce(0, turns.play, turns.number, "amax")
    rest = torch.where(turns.number == last[turns.play], turns.total - plays[turns.play], 0.0)
    return credit.to_go(turns.earned + rest, turns.play, turns.number, discount)
