"""Two-digit addition with a verifier that errs: a share of all training verdicts is the other one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from upslope.envs.arithmetic import Arithmetic
from upslope.envs.episodes import single_turn
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory


@dataclass(frozen=True)
class Flipped:
    """``share`` of the verdicts on training problems; held-out ones are graded as they should be.

    Which ones depends on problem, visit and member alone. The other settings are the base recipe's.
    """

    share: float = 0.0
    reverse: bool = True
    wrong: float = 0.8

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Those of the true env."""
        return self._true.problems(split)

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """The true ones, of which some are turned round; the part ``correct`` stays true."""
        graded = await self._true.rewards(problem, trajectories)
        if split_of(problem.id) != "train":
            return graded
        pairs = zip(graded, trajectories, strict=True)
        return [replace(r, total=1 - r.total) if self._errs(t) else r for r, t in pairs]

    @property
    def _true(self) -> Arithmetic:
        return Arithmetic(reverse=self.reverse, wrong=self.wrong)

    def _errs(self, t: Trajectory) -> bool:
        seed = seed_of("flipped", t.problem.id, t.visit, t.member)
        return random.Random(seed).random() < self.share
