"""The made-up groups that algorithms are checked on, with what commonly breaks them.

Groups of unequal sizes whose rows are not side by side, one of a single member, one of equal
rewards, an invalid member, a trajectory of two segments, truncated ones, an untrained span inside a
reply, turns that earn something and name where they lead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from upslope.batch import Algorithm, Batch, Outputs
from upslope.critic import Critic
from upslope.learner import live_rows
from upslope.optional import critic_of, reported
from upslope.types import (
    Group,
    Problem,
    Reward,
    Segment,
    StopReason,
    Trajectory,
    Turn,
    UserError,
    graded,
)

# Rewards by group; None is a reward that could not be given.
REWARDS: tuple[tuple[float | None, ...], ...] = (
    (1.0, 0.0, 0.0, 1.0),
    (0.3, None, 0.7),
    (0.5,),
    (0.2, 0.2, 0.2),
    (2.0, -1.5),
)
TRUNCATED = ((0, 1), (1, 2))  # (group, member)
RUBBISH = 77.0


@dataclass(frozen=True, eq=False)
class Table:
    """A filled batch, and what a policy says of it: log-probability and entropy [row token], and
    of a critic ``values`` [row token head bin] and ``q`` [row token head]."""

    batch: Batch
    logprobs: Tensor
    entropy: Tensor
    values: Tensor
    q: Tensor

    def outputs(self, algorithm: Algorithm) -> Outputs:
        """What the algorithm reads of it."""
        reads = algorithm.reads
        return Outputs(
            self.logprobs,
            self.entropy if "entropy" in reads else None,
            self.values if "values" in reads else None,
            self.q if "q" in reads else None,
            self.q - 3 if "q" in reads else None,
        )


@cache
def groups(costs: frozenset[str] = frozenset()) -> tuple[Group, ...]:
    """The groups, always the same; ``costs``: what rewards report beside the total."""
    draw = np.random.default_rng(0)
    made = tuple(_group(g, rewards, draw) for g, rewards in enumerate(REWARDS))
    return tuple(replace(g, trajectories=tuple(_costly(g, costs))) for g in made)


def table(algorithm: Algorithm, order: Tensor | None = None) -> Table:
    """The groups as one shuffled batch with everything the algorithm needs, advantages included.

    ``order`` shuffles once more, before the advantages are taken.
    """
    batch = Batch.of(groups(reported(algorithm)), algorithm.start())
    draw = torch.Generator().manual_seed(1)
    batch = batch.rows(torch.randperm(len(batch), generator=draw))
    shape = batch.tokens.shape
    logprobs = -4 * torch.rand(shape, generator=draw)
    # Ratios from 0.5 to 2, beyond any clip.
    old = logprobs + 1.4 * torch.rand(shape, generator=draw) - 0.7
    ref = logprobs + torch.rand(shape, generator=draw) - 0.5
    entropy = 3 * torch.rand(shape, generator=draw)
    batch = replace(batch, old_logprobs=torch.where(batch.trained, old, 0.0))
    if "ref_logprobs" in algorithm.needs:
        batch = replace(batch, ref_logprobs=torch.where(batch.trained, ref, 0.0))
    batch = replace(batch, entropy=torch.where(batch.trained, entropy, 0.0))
    critic = critic_of(algorithm) or Critic()
    values = torch.rand((*shape, critic.heads, critic.width), generator=draw)
    q = torch.rand((*shape, critic.heads), generator=draw)
    if "values" in algorithm.needs:
        near = critic.value(values) + 0.2 * torch.rand(shape, generator=draw) - 0.1
        batch = replace(batch, values=torch.where(batch.trained, near, 0.0))
    if "q" in algorithm.needs:
        batch = replace(batch, q=torch.where(batch.trained, q.amin(-1) + 0.05, 0.0))
    if "teacher_logprobs" in algorithm.needs:
        batch = replace(batch, teacher_logprobs=torch.where(batch.trained, ref - 0.3, 0.0))
    logprobs, entropy = (torch.where(batch.trained, t, 0.0) for t in (logprobs, entropy))
    if order is not None:
        batch, logprobs, entropy = batch.rows(order), logprobs[order], entropy[order]
        values, q = values[order], q[order]
    filled = replace(batch, advantages=algorithm.advantages(batch))
    return Table(filled, logprobs, entropy, values, q)


def gradient(
    algorithm: Algorithm, seen: Table, budget: int = 2**30, skips: bool = False
) -> tuple[float, Tensor]:
    """The update's loss and its gradient [row token, n]: by log-probability, by entropy, and by all
    that a critic says. ``skips``: of the rows alone that the learner does not skip."""
    batch = replace(seen.batch, weights=algorithm.weights(seen.batch))
    live = live_rows(batch, algorithm) if skips else torch.arange(len(batch))
    said = (seen.logprobs, seen.entropy, seen.values, seen.q)
    leaves = [column.clone().requires_grad_() for column in said]
    total = 0.0
    for places in batch.rows(live).micro(budget, algorithm.couples):
        rows = live[places]
        part = batch.rows(rows)
        width = part.tokens.shape[1]
        here = Table(part, *(column[rows][:, :width] for column in leaves))
        loss, metrics = algorithm.loss(here.outputs(algorithm), part)
        for name, value in {"loss": loss, **metrics}.items():
            if value.shape != part.tokens.shape:
                raise UserError(
                    f"{type(algorithm).__name__}.loss gives {name} the shape {list(value.shape)} "
                    f"instead of [row token] = {list(part.tokens.shape)}"
                )
        assert part.weights is not None
        summed = torch.where(part.trained, loss * part.weights, 0.0).sum()
        if summed.requires_grad:
            summed.backward()
        total += float(summed.detach())
    columns = [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]
    return total, torch.cat([column.reshape(*batch.tokens.shape, -1) for column in columns], -1)


def widened(seen: Table, algorithm: Algorithm, by: int = 5) -> Table:
    """The same with more padding, and rubbish in every column that has no number there."""
    columns: dict[str, Any] = {}
    for name, column in vars(seen.batch).items():
        if isinstance(column, Tensor) and column.ndim == 2:
            filler = False if column.dtype == torch.bool else type(column.sum().item())(RUBBISH)
            columns[name] = F.pad(column, (0, by), value=filler)
    batch = replace(seen.batch, **columns)
    batch = replace(batch, advantages=algorithm.advantages(batch))
    logprobs, entropy = (F.pad(t, (0, by)) for t in (seen.logprobs, seen.entropy))
    values, q = F.pad(seen.values, (0, 0, 0, 0, 0, by)), F.pad(seen.q, (0, 0, 0, by))
    return Table(batch, logprobs, entropy, values, q)


def renumbered(seen: Table, algorithm: Algorithm) -> Table:
    """The same with other ids, and gaps between them, as a part of a rollout batch has."""
    other = replace(seen.batch, group=97 - 7 * seen.batch.group)
    other = replace(other, trajectory=101 - 5 * seen.batch.trajectory)
    return replace(seen, batch=replace(other, advantages=algorithm.advantages(other)))


def _group(number: int, rewards: tuple[float | None, ...], draw: np.random.Generator) -> Group:
    problem = Problem(f"made up {number}", prompt="?")
    plays = []
    for member, total in enumerate(rewards):
        # The first trajectory of all was rewritten once: two segments.
        count = 2 if (number, member) == (0, 0) else 1
        segments = tuple(_segment(draw) for _ in range(count))
        end: StopReason = "length" if (number, member) in TRUNCATED else "stop"
        turns = tuple(
            Turn(s, 2, len(segment.tokens), end, reward=0.25 * (count - 1), state="here")
            for s, segment in enumerate(segments)
        )
        reward = Reward(9.0, valid=False, reason="made up") if total is None else Reward(total)
        said = ({"role": "raw", "content": "?"}, {"role": "assistant", "content": "!"})
        plays.append(Trajectory(problem, 0, member, segments, turns, said, reward))
    return Group(problem, tuple(plays), (replace(plays[0], reward=Reward(0.4)),))


def _costly(group: Group, costs: frozenset[str]) -> Iterator[Trajectory]:
    """The group's trajectories with unequal costs, which say nothing of their rewards."""
    draw = np.random.default_rng(len(group.trajectories))
    for play in group.trajectories:
        cost = {name: float(draw.random()) for name in sorted(costs)}
        yield replace(play, reward=replace(graded(play), costs=cost))


def _segment(draw: np.random.Generator) -> Segment:
    """A prompt of 2 tokens and 2 to 9 sampled ones, of which the env said the third."""
    length = 2 + int(draw.integers(2, 10))
    trained = np.arange(length) >= 2
    if length > 6:
        trained[4] = False
    logprobs = np.where(trained, -3 * draw.random(length), 0.0)
    versions = np.where(trained, 1, -1)
    return Segment(
        draw.integers(0, 30, length, dtype=np.int32),
        trained,
        logprobs.astype(np.float32),
        versions.astype(np.int32),
    )
