"""Turns: another algorithm's advantages turn by turn, of what is earned from each turn on (the
reward to go of Williams, 1992).

    A of a turn = the algorithm's own, with the reward to go in place of the reward
    reward to go = total - what turns before it earned

A turn is compared with the turns of the same number in its group: what was earned before it is
no credit of its own, which takes noise away and leaves the expected gradient as it is where all of
a group have as many turns. Where they have not, a turn of a number that one member alone reached
is a group of one: by an algorithm that compares within groups it has A = 0 and teaches nothing. A
trajectory of one turn has the plain algorithm's numbers. What turns earn is what an env's
``Reply.reward`` and a reward's ``at`` say, as parts of the total.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor

from upslope import credit
from upslope.algorithms import ALGORITHMS, inner, nesting
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.unroll import unrolled
from upslope.batch import Algorithm, Batch
from upslope.turns import told
from upslope.types import Group


@final
@dataclass(frozen=True)
class Turns:
    """``of``: the algorithm, a table with a ``type`` and that one's settings."""

    of: Annotated[Algorithm, ALGORITHMS] = GRPO()

    needs, reads, couples = inner.needs, inner.reads, inner.couples
    claims, compares = inner.claims, inner.compares
    start, advance, report = inner.start, inner.advance, inner.report
    weights, loss = inner.weights, inner.loss

    def __post_init__(self) -> None:
        nesting.refuse(self.of, weights=True)

    def keep(self, group: Group) -> bool:
        return self.of.keep(group) or any(map(told, group.trajectories))

    def advantages(self, batch: Batch) -> Tensor:
        turns = unrolled(batch)
        to_go = turns.total - credit.before(turns.earned, turns.play, turns.number)
        group, _ = turns.batch.by_trajectory(turns.batch.group)
        _, index = torch.unique(group, return_inverse=True)
        alike = index * (int(turns.number.max()) + 1) + turns.number
        found = self.of.advantages(turns.grouped(to_go, alike))
        return turns.folded(found, batch.tokens)
