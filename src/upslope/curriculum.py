"""Which problem is played next: by epochs, by the weights of envs, without what is mastered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from upslope.seeds import seed_of
from upslope.types import Group, Problem, UserError


class Curriculum:
    """Each env's problems once an epoch, every epoch in another order.

    ``weights``: how often each ``Problem.env`` has its turn, against the others; alike where not
    given. ``retire``: a problem of whose trajectories so far such a share was right is not played
    again (no-positive-resampling, arXiv:2510.13786); 0 retires none.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        seed: int,
        weights: Mapping[str, float] | None = None,
        retire: float = 0.0,
    ) -> None:
        if not problems:
            raise UserError("the env has no problems in its train split: give it more")
        self.seed, self.weights, self.retire = seed, weights or {}, retire
        self.envs: dict[str, list[Problem]] = {}
        for problem in problems:
            self.envs.setdefault(problem.env, []).append(problem)
        self.known = {problem.id: problem for problem in problems}
        self.turns = dict.fromkeys(self.envs, 0)
        self.places = dict.fromkeys(self.envs, 0)
        self.right: dict[str, tuple[float, int]] = {}

    def next(self) -> tuple[Problem, int] | None:
        """A problem and which visit this is; None where all are retired."""
        waited = sorted(
            self.envs, key=lambda env: (self.turns[env] + 1) / self.weights.get(env, 1.0)
        )
        for env in waited:
            for _ in self.envs[env]:
                visit, place = divmod(self.places[env], len(self.envs[env]))
                self.places[env] += 1
                problem = self.envs[env][order(len(self.envs[env]), self.seed, visit)[place]]
                if not self.retired(problem):
                    self.turns[env] += 1
                    return problem, visit
        return None

    def learn(self, group: Group) -> None:
        """Count a group's right answers, also where it is not trained on."""
        if self.retire:
            valid = [reward.correct for reward in group.rewards if reward.valid]
            right, played = self.right.get(group.problem.id, (0.0, 0))
            self.right[group.problem.id] = right + sum(valid), played + len(valid)

    def retired(self, problem: Problem) -> bool:
        """Whether a problem is mastered."""
        right, played = self.right.get(problem.id, (0.0, 0))
        return self.retire > 0 and played > 0 and right >= self.retire * played

    def state(self) -> dict[str, Any]:
        """Turns, places and pass rates, and whose they are; JSON types only."""
        return {
            "problems": seed_of("problems", *self.known),
            "turns": dict(self.turns),
            "places": dict(self.places),
            "right": {name: list(seen) for name, seen in self.right.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue; UserError where the problems are not the same ones in the same order."""
        if state["problems"] != seed_of("problems", *self.known):
            raise UserError(
                "the env's problems are not those that the run was begun with: give it the same "
                "data and settings, or train without --resume"
            )
        self.turns, self.places = dict(state["turns"]), dict(state["places"])
        self.right = {name: (float(r), int(n)) for name, (r, n) in state["right"].items()}


def order(n: int, seed: int, visit: int) -> list[int]:
    """The order of ``n`` things in one epoch."""
    key = (n, seed, visit)
    if key not in _orders:
        while len(_orders) > 16:  # one epoch's order of each env is asked for at a time
            del _orders[next(iter(_orders))]
        shuffle = np.random.Generator(np.random.Philox(seed_of(seed, "order", visit)))
        _orders[key] = shuffle.permutation(n).tolist()
    return _orders[key]


_orders: dict[tuple[int, int, int], list[int]] = {}
