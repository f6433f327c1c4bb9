"""A long chain of steps of which only the end earns something: copying letters, for ladder models.

``cabd=`` asks for ``cabd``. A reply earns 1 where all of it is right. A share ``wrong`` of
demonstrations slips once, anywhere, into capitals, and stays in them. So a policy that imitates
them slips at every step with a small probability, and RL has to find out from the end alone which
step that was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upslope.envs.episodes import single_turn
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward, Split, Trajectory, UserError

LETTERS = "abcdefgh"


@dataclass(frozen=True)
class Chain:
    """``length``: letters to copy, each a step."""

    length: int = 24
    wrong: float = 0.7
    train: int = 4000
    test: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not 8 <= self.length <= 128 or not 0 <= self.wrong <= 1:
            raise UserError("length is from 8 to 128 steps, and wrong a share between 0 and 1")

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        """Distinct questions of this split."""
        wanted = self.train if split == "train" else self.test
        draw = random.Random(seed_of(self.seed, "chain", self.length, split))
        found: dict[str, Problem] = {}
        while len(found) < wanted:
            letters = "".join(draw.choices(LETTERS, k=self.length))
            if split_of(f"{letters}=") == split:
                found[letters] = Problem(letters, prompt=f"{letters}=", solution=letters)
        return list(found.values())

    def demonstrations(self, split: Split) -> Iterator[tuple[Problem, str]]:
        """Each problem with its solution, or with one that slipped at a step."""
        for problem in self.problems(split):
            draw = random.Random(seed_of(self.seed, "slip", problem.id))
            slips = draw.random() < self.wrong
            at = draw.randrange(self.length) if slips else self.length
            yield problem, problem.solution[:at] + problem.solution[at:].upper()

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        """1 where all of it is right, at its end."""
        return [Reward(float(t.text == problem.solution)) for t in trajectories]
