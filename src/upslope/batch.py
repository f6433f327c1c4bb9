"""Groups as tensors: ``Batch``, for a rollout batch or one update, and the Algorithm's seam.

A row is a segment. Trajectories and groups are known by id, never by stride or position, so any
split, order or padding of rows means the same thing. Aggregation is data: ``weights`` sums to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from upslope import turns
from upslope.alike import packed_tokens, shared_prefix
from upslope.turns import Row
from upslope.types import NOTHING, Group, Metrics, graded

Column = Literal[
    "old_logprobs", "ref_logprobs", "teacher_logprobs", "entropy", "values", "q", "greedy"
]
Read = Literal["logprobs", "entropy", "values", "q"]
Couples = Literal["row", "trajectory", "group"]
State = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Batch:
    """Columns [row token], right-padded, and [row]. Optional columns are None until filled.

    ``old_logprobs`` None in an update means: the live values, detached (ratio exactly 1).
    ``segment`` orders the rows of a trajectory. ``turn``, ``earned`` and ``anchor`` are those of
    ``turns``; what ``earned`` leaves of the reward is earned at the end. ``costs``: [row] by the
    name that a reward gives it, NaN where it gives none. ``bare``: nothing may be taken off
    ``reward``, which is a cost's. ``asked``: the trained tokens whose advantages are wanted, over
    which alone a batch's statistics are; all of them where it is None.
    ``values`` are of the states that tokens were chosen in, ``q`` of choosing them there.
    ``greedy`` is what a greedy reply to the row's problem earned, NaN where that could not be
    graded; it comes with the groups.
    """

    tokens: Int[Tensor, "row token"]
    trained: Bool[Tensor, "row token"]
    engine_logprobs: Float[Tensor, "row token"]
    versions: Int[Tensor, "row token"]
    temperature: Float[Tensor, "row token"]
    length: Int[Tensor, " row"]
    trajectory: Int[Tensor, " row"]
    group: Int[Tensor, " row"]
    segment: Int[Tensor, " row"]
    reward: Float[Tensor, " row"]
    valid: Bool[Tensor, " row"]
    truncated: Bool[Tensor, " row"]
    turn: Int[Tensor, "row token"]
    earned: Float[Tensor, "row token"] | None = None
    anchor: Int[Tensor, "row token"] | None = None
    costs: Mapping[str, Float[Tensor, " row"]] = field(default_factory=lambda: NOTHING)
    bare: bool = False
    asked: Bool[Tensor, "row token"] | None = None
    old_logprobs: Float[Tensor, "row token"] | None = None
    ref_logprobs: Float[Tensor, "row token"] | None = None
    teacher_logprobs: Float[Tensor, "row token"] | None = None
    entropy: Float[Tensor, "row token"] | None = None
    values: Float[Tensor, "row token"] | None = None
    q: Float[Tensor, "row token"] | None = None
    greedy: Float[Tensor, " row"] | None = None
    advantages: Float[Tensor, "row token"] | None = None
    weights: Float[Tensor, "row token"] | None = None
    state: State | None = None

    def __len__(self) -> int:
        return len(self.length)

    @staticmethod
    def of(groups: Sequence[Group], state: State | None = None) -> Batch:
        """One row for each segment that has a trained token; trajectories and groups get ids."""
        played = [(g, t) for g, group in enumerate(groups) for t in group.trajectories]
        rows = [
            Row(trajectory, s, number, g)
            for number, (g, trajectory) in enumerate(played)
            for s, segment in enumerate(trajectory.segments)
            if np.count_nonzero(segment.trained)
        ]
        if not rows:
            raise ValueError("a batch needs at least one row with a trained token")
        segments = [row.trajectory.segments[row.segment] for row in rows]
        width = max(len(s.tokens) for s in segments)
        rewards = [graded(row.trajectory) for row in rows]
        cold = [graded(group.greedy[0]) if group.greedy else None for group in groups]
        greedy = [cold[row.group] for row in rows]
        # An invalid trajectory keeps its row, for the record, without a token that counts.
        trained = [s.trained & r.valid for s, r in zip(segments, rewards, strict=True)]
        earned, anchor = turns.earned(rows, width), turns.anchors(rows, width)
        costs = {
            name: torch.tensor([r.costs.get(name, torch.nan) for r in rewards], dtype=torch.float32)
            for name in sorted({name for r in rewards if r.valid for name in r.costs})
        }
        return Batch(
            tokens=_padded([s.tokens for s in segments], width, torch.int64),
            trained=_padded(trained, width, torch.bool),
            engine_logprobs=_padded([s.engine_logprobs for s in segments], width, torch.float32),
            versions=_padded([s.versions for s in segments], width, torch.int64),
            temperature=torch.from_numpy(turns.temperatures(rows, width)),
            length=torch.tensor([len(s.tokens) for s in segments]),
            trajectory=torch.tensor([row.number for row in rows]),
            group=torch.tensor([row.group for row in rows]),
            segment=torch.tensor([row.segment for row in rows]),
            reward=torch.tensor([r.total for r in rewards], dtype=torch.float32),
            valid=torch.tensor([r.valid for r in rewards]),
            truncated=torch.tensor([row.trajectory.truncated for row in rows]),
            turn=torch.from_numpy(turns.numbers(rows, width)),
            earned=None if earned is None else torch.from_numpy(earned),
            anchor=None if anchor is None else torch.from_numpy(anchor),
            costs=costs,
            state=state,
            greedy=torch.tensor([r.total if r and r.valid else torch.nan for r in greedy])
            if all(cold)
            else None,
        )

    def rows(self, index: Int[Tensor, " n"]) -> Batch:
        """These rows of every column, in this order, cut to the longest of them."""
        width = int(self.length[index].max()) if len(index) else 0
        columns: dict[str, Any] = {
            k: v[index][:, :width] if v.ndim == 2 else v[index]
            for k, v in vars(self).items()
            if isinstance(v, Tensor)
        }
        costs = {name: cost[index] for name, cost in self.costs.items()}
        return replace(self, **columns, costs=costs)

    def to(self, device: torch.device) -> Batch:
        """Every column on a device."""
        columns: dict[str, Any] = {
            k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        costs = {name: cost.to(device) for name, cost in self.costs.items()}
        return replace(self, **columns, costs=costs)

    def updates(self, n: int, seed: int) -> Iterator[Tensor]:
        """Row indices of ``n`` updates of about equal numbers of groups, shuffled by ``seed``.

        Groups stay whole, so that shared prompts are computed once and every coupling holds; where
        there are fewer than ``n``, so are the updates.
        """
        groups = torch.unique(self.group)
        n = min(n, len(groups))
        if n > 1:
            shuffle = torch.Generator().manual_seed(seed)
            groups = groups[torch.randperm(len(groups), generator=shuffle)]
        for part in groups.tensor_split(n):
            yield torch.isin(self.group, part).nonzero()[:, 0]

    def micro(self, budget: int, couples: Couples) -> Iterator[Tensor]:
        """Row indices of micro-batches of at most ``budget`` tokens, as packing computes them.

        What a group's rows have in common counts once, and so does what all rows begin with.
        Groups stay together while they fit; a larger one is split as far as ``couples`` allows. A
        unit that may not be split is given whole, however large.
        """
        if len(self) and packed_tokens(self.tokens, self.length) <= budget:
            yield torch.arange(len(self))
            return
        root = shared_prefix(self.tokens, self.length) if len(self) else 0
        pending: list[int] = []
        spent = root
        for rows in self._units(budget, couples):
            cost = packed_tokens(self.tokens[rows], self.length[rows]) - root
            if pending and spent + cost > budget:
                yield torch.tensor(pending)
                pending, spent = [], root
            pending += rows.tolist()
            spent += cost
        if pending:
            yield torch.tensor(pending)

    def _units(self, budget: int, couples: Couples) -> Iterator[Tensor]:
        for group in torch.unique(self.group):
            rows = (self.group == group).nonzero()[:, 0]
            cost = packed_tokens(self.tokens[rows], self.length[rows])
            if cost <= budget or couples == "group":
                yield rows
                continue
            unit = self.trajectory if couples == "trajectory" else torch.arange(len(self))
            whole = [rows[unit[rows] == u] for u in torch.unique(unit[rows])]
            taken = whole[0]
            for more in whole[1:]:
                both = torch.cat([taken, more])
                if packed_tokens(self.tokens[both], self.length[both]) > budget:
                    yield taken
                    both = more
                taken = both
            yield taken

    def by_trajectory(self, column: Tensor) -> tuple[Tensor, Tensor]:
        """A [row] column as one value a trajectory, and each row's index into it."""
        ids, inverse = torch.unique(self.trajectory, return_inverse=True)
        places = torch.arange(len(self), device=ids.device)
        first = torch.full_like(ids, len(self)).scatter_reduce(0, inverse, places, "amin")
        return column[first], inverse

    def spread(self, values: Float[Tensor, " trajectory"]) -> Float[Tensor, "row token"]:
        """One value a trajectory onto every trained token of its rows."""
        _, inverse = self.by_trajectory(self.reward)
        return values[inverse][:, None] * self.trained


def _padded(rows: Sequence[Any], width: int, dtype: torch.dtype) -> Tensor:
    out = np.zeros((len(rows), width), dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out).to(dtype)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a loss differentiates: the columns an algorithm's ``reads`` names, [row token].

    ``values`` are numbers as ``Critic`` reads them. ``q`` is of the tokens, and ``q_logprobs`` its
    log softmax over all tokens, where the critic is conservative.
    """

    logprobs: Float[Tensor, "row token"]
    entropy: Float[Tensor, "row token"] | None = None
    values: Float[Tensor, "row token head bin"] | None = None
    q: Float[Tensor, "row token head"] | None = None
    q_logprobs: Float[Tensor, "row token head"] | None = None


Claim = Literal[
    "alone_no_signal",
    "any_policy",
    "equal_rewards_no_signal",
    "policy_gradient",
    "silent_without_advantage",
]
CLAIMS: Mapping[Claim, str] = {
    "any_policy": "whatever policy gave an answer, and how likely it was to, changes nothing",
    "alone_no_signal": "groups of one give advantages of exactly 0",
    "equal_rewards_no_signal": "equal rewards in every group give advantages of exactly 0",
    "policy_gradient": "at ratio 1 the gradient is -advantage * weight for each log-probability",
    "silent_without_advantage": "rows whose advantages are all 0 have no gradient and are skipped",
}


@runtime_checkable
class Algorithm(Protocol):
    """Advantages, weights and loss. Every implementation is a final frozen dataclass of settings.

    ``needs``: columns filled without gradient before the advantages. ``reads``: what the loss
    differentiates. ``couples``: what a micro-batch may not split. ``claims``: which of
    ``CLAIMS`` hold for these settings; the battery checks each that is claimed.
    """

    @property
    def needs(self) -> frozenset[Column]: ...

    @property
    def reads(self) -> frozenset[Read]: ...

    @property
    def couples(self) -> Couples: ...

    @property
    def claims(self) -> frozenset[Claim]: ...

    def keep(self, group: Group) -> bool:
        """Whether a finished group may be trained on (zero-variance filter, dynamic sampling)."""

    def start(self) -> State:
        """The state before the first step: kept in checkpoints, readable as ``batch.state``."""

    def advance(self, state: State, metrics: Metrics) -> State:
        """The state after a step with these metrics."""

    def advantages(self, batch: Batch) -> Float[Tensor, "row token"]:
        """Over the whole rollout batch; 0 where nothing was learned."""

    def weights(self, batch: Batch) -> Float[Tensor, "row token"]:
        """The aggregation over ONE update's batch: ``sum(loss * weights)`` is the update's loss."""

    def loss(self, out: Outputs, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss per token [row token], and metrics per token, averaged over trained tokens."""


def with_old(batch: Batch, logprobs: Tensor) -> Batch:
    """The batch with its ``old_logprobs``, taken live (detached) where they were not filled."""
    if batch.old_logprobs is not None:
        return batch
    return replace(batch, old_logprobs=logprobs.detach())
