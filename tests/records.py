"""Small problems, trajectories and groups, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from upslope.types import (
    Action,
    Group,
    Metrics,
    Problem,
    Reward,
    Segment,
    Trajectory,
    Turn,
)

PROMPT = (1, 2, 3)


def problem(id: str = "p", **known: object) -> Problem:
    """A raw prompt."""
    return Problem(id, prompt=f"question {id}", **known)


def segment(
    reply: Sequence[int],
    prompt: Sequence[int] = PROMPT,
    logprobs: Sequence[float] | None = None,
    version: int = 0,
) -> Segment:
    """A prompt and a sampled reply; each of its tokens had log-probability -1 unless given."""
    said = [-1.0] * len(reply) if logprobs is None else logprobs
    return Segment(
        np.array([*prompt, *reply]),
        np.array([False] * len(prompt) + [True] * len(reply)),
        np.array([*([0.0] * len(prompt)), *said]),
        np.array([-1] * len(prompt) + [version] * len(reply)),
    )


def trajectory(
    of: Problem,
    segments: Sequence[Segment],
    reward: float | Reward = 1.0,
    member: int = 0,
    temperature: float = 1.0,
    text: str = "reply",
) -> Trajectory:
    """One graded play, a turn in each segment."""
    turns = [
        Turn(i, int(s.trained.argmax()), len(s.tokens), "stop", temperature)
        for i, s in enumerate(segments)
    ]
    said = ({"role": "raw", "content": of.prompt}, {"role": "assistant", "content": text})
    earned = reward if isinstance(reward, Reward) else Reward(reward)
    return Trajectory(of, 0, member, tuple(segments), tuple(turns), said, earned)


def group(
    rewards: Sequence[float | Reward],
    replies: Sequence[Sequence[int]] | None = None,
    prompt: Sequence[int] = PROMPT,
    id: str = "p",
    version: int = 0,
    temperature: float = 1.0,
) -> Group:
    """One single-segment play for each reward; by default replies of 2, 3, 4, ... tokens."""
    said = replies or [tuple(range(4, 6 + i)) for i in range(len(rewards))]
    of = problem(id)
    plays = [
        trajectory(of, [segment(reply, prompt, version=version)], reward, member, temperature)
        for member, (reward, reply) in enumerate(zip(rewards, said, strict=True))
    ]
    return Group(of, tuple(plays))


def invalid(total: float = 0.0) -> Reward:
    """A reward that could not be given."""
    return Reward(total, valid=False, reason="the grader failed")


def untimed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics without what a clock said."""
    clocks = {"seconds", "seconds_share", "cpu_seconds", "money"}
    return [{k: v for k, v in r.items() if not clocks & set(k.split("/"))} for r in rows]


class Interrupt:
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        if groups and step == self.step:
            raise KeyboardInterrupt
        return ()
