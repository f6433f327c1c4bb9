"""Which problem is played next: by epochs and the weights of envs, without what is mastered or out
of reach for now, and again what was right about half of the time; and how hot it is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from upslope.seeds import seed_of
from upslope.types import Group, Problem, UserError


@dataclass(frozen=True)
class Window:
    """Which problems are worth playing, by the share of right answers in their newest group.

    Below ``low`` or above ``high`` one sits out its next ``rest`` epochs. ``replay``: such a share
    of plays, in place of the epoch's, is of problems that were partly right: those between a
    quarter and three quarters first, and of these the least replayed.
    """

    low: float = 0.0
    high: float = 1.0
    rest: int = 1
    replay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"window.low={self.low:g} must be below window.high={self.high:g}, both shares "
                "between 0 and 1"
            )
        if self.rest < 1 or not 0 <= self.replay < 1:
            raise ValueError(
                f"window.rest={self.rest} must be at least 1, and window.replay={self.replay:g} a "
                "share below 1"
            )

    @property
    def asks(self) -> bool:
        """Whether it looks at problems at all."""
        return (self.low, self.high, self.replay) != (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Heat:
    """A temperature that goes from ``rollout.temperature`` to ``end`` over ``steps`` steps, evenly.

    ``steps`` 0 leaves it as it is. Each token is scored at the temperature that it was drawn at.
    """

    end: float = 1.0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.end <= 0 or self.steps < 0:
            raise ValueError(
                f"heat.end={self.end:g} must be above 0, and heat.steps={self.steps} not negative"
            )

    def at(self, step: int, start: float) -> float:
        """The temperature of a step, the first of which is 0."""
        done = min(step / self.steps, 1.0) if self.steps else 0.0
        return start + done * (self.end - start)


class Curriculum:
    """Each env's problems once an epoch, every epoch in another order.

    ``weights``: how often each ``Problem.env`` has its turn, against the others; alike where not
    given. ``retire``: a problem of whose trajectories so far such a share was right is not played
    again (no-positive-resampling, arXiv:2510.13786); 0 retires none. Replays have visits of their
    own, counted down from -1.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        seed: int,
        weights: Mapping[str, float] | None = None,
        retire: float = 0.0,
        window: Window = Window(),
    ) -> None:
        if not problems:
            raise UserError("the env has no problems in its train split: give it more")
        self.seed, self.weights, self.retire = seed, weights or {}, retire
        self.window = window
        self.envs: dict[str, list[Problem]] = {}
        for problem in problems:
            self.envs.setdefault(problem.env, []).append(problem)
        self.known = {problem.id: problem for problem in problems}
        self.turns = dict.fromkeys(self.envs, 0)
        self.places = dict.fromkeys(self.envs, 0)
        self.right: dict[str, tuple[float, int]] = {}
        # Of each problem with a graded group: how right the newest was, and at which epoch.
        self.newest: dict[str, tuple[float, int]] = {}
        self.replays: dict[str, int] = {}

    def next(self) -> tuple[Problem, int] | None:
        """A problem and which visit this is; None where all are retired."""
        waited = sorted(
            self.envs, key=lambda env: (self.turns[env] + 1) / self.weights.get(env, 1.0)
        )
        for env in waited:
            if again := self._again(env):
                self.turns[env] += 1
                return again
            epochs = self.window.rest + 1 if self.window.asks else 1
            for _ in range(len(self.envs[env]) * epochs):
                visit, place = divmod(self.places[env], len(self.envs[env]))
                self.places[env] += 1
                problem = self.envs[env][order(len(self.envs[env]), self.seed, visit)[place]]
                if not self.retired(problem) and not self._rests(problem, visit):
                    self.turns[env] += 1
                    return problem, visit
        return None

    def learn(self, group: Group) -> None:
        """Count a group's right answers, also where it is not trained on."""
        valid = [reward.correct for reward in group.rewards if reward.valid]
        if self.window.asks and valid:
            visit = max(group.trajectories[0].visit, self.newest.get(group.problem.id, (0, 0))[1])
            self.newest[group.problem.id] = sum(valid) / len(valid), visit
        if self.retire:
            right, played = self.right.get(group.problem.id, (0.0, 0))
            self.right[group.problem.id] = right + sum(valid), played + len(valid)

    def retired(self, problem: Problem) -> bool:
        """Whether a problem is mastered."""
        right, played = self.right.get(problem.id, (0.0, 0))
        return self.retire > 0 and played > 0 and right >= self.retire * played

    def _rests(self, problem: Problem, visit: int) -> bool:
        """Whether a problem sits this epoch out."""
        if problem.id not in self.newest:
            return False
        rate, last = self.newest[problem.id]
        outside = not self.window.low <= rate <= self.window.high
        return outside and visit <= last + self.window.rest

    def _again(self, env: str) -> tuple[Problem, int] | None:
        """A replay, where it is its turn and a problem was partly right."""
        draw = seed_of(self.seed, "replay", env, self.turns[env]) / 2**63
        if draw >= self.window.replay:
            return None
        partly = {
            p.id: abs(self.newest[p.id][0] - 0.5)
            for p in self.envs[env]
            if p.id in self.newest and 0 < self.newest[p.id][0] < 1 and not self.retired(p)
        }
        if not partly:
            return None
        times = self.replays
        chosen = min(partly, key=lambda p: (partly[p] > 0.25, times.get(p, 0), partly[p]))
        times[chosen] = times.get(chosen, 0) + 1
        return self.known[chosen], -times[chosen]

    def state(self) -> dict[str, Any]:
        """Turns, places and pass rates, and whose they are; JSON types only."""
        return {
            "problems": seed_of("problems", *self.known),
            "turns": dict(self.turns),
            "places": dict(self.places),
            "right": {name: list(seen) for name, seen in self.right.items()},
            "newest": {name: list(seen) for name, seen in self.newest.items()},
            "replays": dict(self.replays),
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
        self.newest = {name: (float(r), int(v)) for name, (r, v) in state["newest"].items()}
        self.replays = dict(state["replays"])


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
