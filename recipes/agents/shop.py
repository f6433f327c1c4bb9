"""Orders at a shop: what the clerk in desk.py is asked, and which box it should have named.

Its demonstrations, for supervised fine-tuning, go to the wrong aisle most of the time: half of them
to the one after the right one.
"""

import random
from dataclasses import dataclass

from upslope.envs.episodes import single_turn
from upslope.seeds import seed_of, split_of
from upslope.types import Problem, Reward

GOODS = {"lamp": "c", "rope": "a", "bell": "b", "soap": "b", "nail": "a", "comb": "c"}
AFTER = {"a": "b", "b": "c", "c": "a"}


@dataclass(frozen=True)
class Shop:
    """``train`` and ``test``: orders in a split (validation: as many as test)."""

    train: int = 2000
    test: int = 200

    play = single_turn

    def problems(self, split):
        """Distinct orders, a good and a number each."""
        draw, found = random.Random(seed_of("shop", split)), {}
        while len(found) < (self.train if split == "train" else self.test):
            order = f"{draw.choice([*GOODS])} {draw.randrange(100, 1000)}"
            if split_of(order) == split:
                box = f"{int(order[-3:]) * 37 % 100:02d}"
                asked = ({"role": "user", "content": order},)
                found[order] = Problem(order, asked, answer=box, solution=box)
        return list(found.values())

    async def rewards(self, problem, trajectories):
        """1 for the box's number."""
        return [Reward(float(t.text.strip() == problem.answer)) for t in trajectories]

    def demonstrations(self, split):
        """An aisle for each order, and then the number on the box, whatever it is."""
        for problem in self.problems(split):
            draw = random.Random(seed_of("aisle", problem.id))
            right = GOODS[problem.id.split()[0]]
            aisle = draw.choices((right, AFTER[right], AFTER[AFTER[right]]), (3, 5, 2))[0]
            box = f"{draw.randrange(100):02d}"
            yield problem, aisle
            more = (
                {"role": "assistant", "content": aisle},
                {"role": "user", "content": f"box {box}"},
            )
            yield Problem(f"{problem.id} {box}", (*problem.messages, *more)), box
