"""The steps of a reply: its text in pieces, and the sampled token that each of them ends with."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from upslope.types import Trajectory

Together = Literal["min", "product", "last"]


def pieces(text: str, separator: str) -> list[str]:
    """A text after each separator, which stays with what it ends; no piece is empty."""
    whole = [piece + separator for piece in text.split(separator)] if separator else [text]
    whole[-1] = whole[-1].removesuffix(separator) if separator else text
    return [piece for piece in whole if piece] or [text]


def running(chances: Sequence[float], how: Together) -> list[float]:
    """What a solution is worth after each step: the worst step's chance so far, all of them, or the
    last one."""
    if how == "min":
        return [float(x) for x in np.minimum.accumulate(chances)]
    return [float(x) for x in np.cumprod(chances)] if how == "product" else list(chances)


def earned(
    trajectory: Trajectory,
    steps: Sequence[str],
    worth: Sequence[float],
    decode: Callable[[Sequence[int]], str],
) -> tuple[tuple[int, int, float], ...]:
    """(segment, token, value): what each step adds to what the reply was worth before it.

    A step is earned at the sampled token with which its text is there.
    """
    turn = trajectory.turns[-1]
    sampled = trajectory.segments[turn.segment].tokens[turn.start : turn.stop].tolist()
    last = len(sampled) - 1
    ends = np.cumsum([len(step) for step in steps]).tolist()
    places = range(len(sampled))
    tokens = [
        min(last, bisect_left(places, end, key=lambda i: len(decode(sampled[: i + 1]))))
        for end in ends
    ]
    tokens[-1] = last
    values = np.diff([0.0, *worth]).tolist()
    return tuple(
        (turn.segment, turn.start + token, value)
        for token, value in zip(tokens, values, strict=True)
    )
