"""What there is to choose from, as lines: each algorithm with its paper, needs and presets."""

from __future__ import annotations

from collections.abc import Iterator

from upslope import presets
from upslope.algorithms import ALGORITHMS
from upslope.batch import Algorithm
from upslope.components import catalogue, find

COLUMNS = {
    "entropy": "the entropy of each token's distribution",
    "greedy": "a greedy reply to each problem",
    "old_logprobs": "a pass for the old log-probabilities",
    "ref_logprobs": "the policy at the start as a reference",
}


def algorithms() -> list[str]:
    """Each algorithm's first sentence with its paper, what it needs and who uses it, settings."""
    return list(catalogue(ALGORITHMS, facts))


def facts(name: str) -> Iterator[str]:
    """What an algorithm needs as its defaults are, and the presets that are settings of it."""
    made: Algorithm = find(ALGORITHMS, name, "algorithm")()
    needed = [COLUMNS.get(column, column) for column in sorted(made.needs)]
    if "equal_rewards_no_signal" in made.claims:
        needed.insert(0, "groups of 2 or more")
    yield f"needs: {', '.join(needed) or 'nothing more'}"
    yield f"presets: {', '.join(presets.using(name)) or 'none'}"
