"""What there is to choose from, as lines: each algorithm with its paper, needs and presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from upslope import presets
from upslope.algorithms import ALGORITHMS
from upslope.batch import Algorithm, Column
from upslope.components import catalogue, find, required
from upslope.optional import compares

COLUMNS: dict[Column, str] = {
    "entropy": "the entropy of each token's distribution",
    "greedy": "a greedy reply to each problem",
    "old_logprobs": "a pass for the old log-probabilities",
    "q": "Q of what was recorded",
    "ref_logprobs": "the policy at the start as a reference",
    "teacher_logprobs": "the teacher's log-probabilities",
    "values": "a critic's values",
}


def algorithms() -> list[str]:
    """Each algorithm's first sentence with its paper, what it needs and who uses it, settings."""
    return list(catalogue(ALGORITHMS, facts))


def facts(name: str) -> Iterator[str]:
    """What an algorithm needs as its defaults are, and the presets that are settings of it."""
    cls = find(ALGORITHMS, name, "algorithm")
    settings = dataclasses.fields(cls)
    if "of" in (field.name for field in settings):
        needed = [f"its setting {field.name}" for field in settings if required(field)]
        needed.append("whatever the algorithm inside needs")
    else:
        needed = _needs(cls())
    yield f"needs: {', '.join(needed) or 'nothing more'}"
    yield f"presets: {', '.join(presets.using(name)) or 'none'}"


def _needs(made: Algorithm) -> list[str]:
    groups = ["groups of 2 or more"] if compares(made) else []
    return groups + [COLUMNS[column] for column in sorted(made.needs)]
