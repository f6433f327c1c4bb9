"""Demonstrations of which a share is wrong, as several envs write them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from upslope.seeds import seed_of
from upslope.types import Problem


def with_slips(
    problems: Iterable[Problem], wrong: float, seed: int
) -> Iterator[tuple[Problem, str]]:
    """Each problem with its solution or, for a share ``wrong``, with the slip in its ``info``."""
    for problem in problems:
        slips = random.Random(seed_of(seed, "wrong", problem.id)).random() < wrong
        yield problem, str(problem.info["slip"]) if slips else problem.solution
