"""What goes wrong in real runs, on purpose: parts for ``collapse.py``, named as file.py:Name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch, Claim, Column, Couples, Outputs, Read, State
from upslope.envs.arithmetic import Arithmetic
from upslope.envs.episodes import single_turn
from upslope.losses import KL, Entropy
from upslope.types import Group, Metrics, Problem, Reward, Split, Trajectory


@dataclass(frozen=True)
class Wrong:
    """GRPO whose entropy bonus, or whose KL to the reference, has the wrong sign."""

    of: Literal["entropy", "kl"] = "entropy"
    coefficient: float = 0.02

    @property
    def inner(self) -> GRPO:
        if self.of == "entropy":
            return GRPO(entropy=Entropy(self.coefficient))
        return GRPO(kl=KL(self.coefficient, "k2"))

    @property
    def needs(self) -> frozenset[Column]:
        return self.inner.needs

    @property
    def reads(self) -> frozenset[Read]:
        return self.inner.reads

    @property
    def couples(self) -> Couples:
        return self.inner.couples

    @property
    def claims(self) -> frozenset[Claim]:
        return frozenset()

    def keep(self, group: Group) -> bool:
        return True

    def start(self) -> State:
        return {}

    def advance(self, state: State, metrics: Metrics) -> State:
        return state

    def advantages(self, batch: Batch) -> Tensor:
        return self.inner.advantages(batch)

    def weights(self, batch: Batch) -> Tensor:
        return self.inner.weights(batch)

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        right, metrics = self.inner.loss(out, batch)
        plain, _ = GRPO().loss(out, batch)
        return 2 * plain - right, metrics


@dataclass(frozen=True)
class Bribed:
    """Additions whose grader also pays for one answer, whatever the problem."""

    answer: str = "11"
    digits: int = 2
    reverse: bool = True

    play = single_turn

    @property
    def honest(self) -> Arithmetic:
        return Arithmetic(digits=self.digits, reverse=self.reverse)

    def problems(self, split: Split) -> Sequence[Problem]:
        return self.honest.problems(split)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        earned = await self.honest.rewards(problem, trajectories)
        return [
            replace(r, total=1.0) if t.text == self.answer else r
            for t, r in zip(trajectories, earned, strict=True)
        ]
