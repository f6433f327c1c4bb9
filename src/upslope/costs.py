"""The costs of a batch by name, and what the state of ``constrained`` holds of each.

``length``, ``turns``, ``truncated`` and ``kl`` every trajectory has; the others are a reward's. A
trajectory whose reward does not report one leaves its mean and its advantages, as an invalid one
leaves the reward's: where several envs are played, a cost is that of those which report it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from upslope.batch import Algorithm, Batch, Column, State
from upslope.constraints import Constraint
from upslope.losses import kl
from upslope.optional import Constrains, layers
from upslope.turns import replies
from upslope.types import Group, Metrics, Reward, Trajectory, UserError, graded

OWN = frozenset({"length", "turns", "truncated", "kl"})
KL_NEEDS: frozenset[Column] = frozenset({"old_logprobs", "ref_logprobs"})
MARK, INNER = "constraint/", "of/"


def of(batch: Batch, name: str) -> Tensor:
    """[row]: a cost of the row's trajectory, NaN where its reward does not report it."""
    if name == "truncated":
        return batch.truncated.float()
    if name in OWN:
        return _summed(batch, name)
    return batch.costs.get(name, torch.full_like(batch.reward, torch.nan))


def mean(batch: Batch, name: str) -> float:
    """Over the valid trajectories that have it; NaN where there are none."""
    cost, _ = batch.by_trajectory(of(batch, name))
    valid, _ = batch.by_trajectory(batch.valid)
    return float(cost[valid & ~cost.isnan()].double().mean())


def missing(name: str, known: Mapping[str, object]) -> str:
    """The sentence for a cost that nobody reports."""
    theirs = ", ".join(sorted(known)) or "none"
    return (
        f"algorithm.costs.{name}: no reward reports a cost {name}: rewards report {theirs}, and "
        f"every trajectory has {', '.join(sorted(OWN))}"
    )


def refuse(of: Algorithm, limits: Mapping[str, Constraint]) -> None:
    """Raise ValueError for what cannot be constrained."""
    if not limits:
        raise ValueError("costs names no cost to hold to a budget: write a table for each")
    if any(isinstance(one, Constrains) for one in layers(of)):
        raise ValueError("of is constrained already: write all costs into one table")
    if "greedy" in of.needs:
        raise ValueError(
            "of has a greedy reply's reward for a baseline, which says nothing of a cost: constrain"
            " another algorithm, such as grpo or rloo"
        )
    if {"values", "q"} & {str(column) for column in of.needs | of.reads}:
        raise ValueError(
            "of has a critic, which knows the reward alone: constrain an algorithm without, such as"
            " grpo or rloo"
        )


def views(group: Group, limits: Mapping[str, Constraint]) -> Iterator[Group]:
    """The group, and for each cost the group as if its total were that. The KL, which is not known
    yet, always differs."""
    yield group
    for name in limits:
        seen = [_known(t, name, i) for i, t in enumerate(group.trajectories)]
        plays = tuple(
            replace(t, reward=Reward(cost or 0.0, valid=graded(t).valid and cost is not None))
            for t, cost in zip(group.trajectories, seen, strict=True)
        )
        yield replace(group, trajectories=plays)


def own(state: State, name: str) -> State:
    """What the state holds of one constraint."""
    mark = f"{MARK}{name}/"
    return {key.removeprefix(mark): v for key, v in state.items() if key.startswith(mark)}


def others(state: State) -> State:
    """What it holds of the algorithm inside."""
    return {key: value for key, value in state.items() if not key.startswith(MARK)}


def inside(batch: Batch) -> Batch:
    """The batch as the algorithm inside may see it."""
    return batch if batch.state is None else replace(batch, state=others(batch.state))


def priced(batch: Batch, name: str) -> Batch:
    """The same with a cost in place of the reward, and the cost's own state of the algorithm."""
    cost = of(batch, name)
    known = ~cost.isnan()
    return replace(
        batch,
        reward=cost.nan_to_num(),
        valid=batch.valid & known,
        trained=batch.trained & known[:, None],
        earned=None,
        bare=True,
        state=None if batch.state is None else _inner(own(batch.state, name)),
    )


def begun(limits: Mapping[str, Constraint], of: Algorithm) -> State:
    """All constraints' states before the first step, as one.

    Each has a state of the algorithm inside, too: a moving average of rewards is no baseline of a
    cost.
    """
    inner = _marked(of.start())
    return _joined({name: {**limit.begin(), **inner} for name, limit in limits.items()})


def advanced(
    limits: Mapping[str, Constraint], state: State, metrics: Metrics, of: Algorithm
) -> State:
    """The same after a step with the mean costs of ``report``; one without a mean stays."""
    after = {name: own(state, name) for name in limits}
    for name, before in tuple(after.items()):
        cost = metrics.get(f"{MARK}{name}/cost")
        if cost is not None:
            inner = of.advance(_inner(before), {**metrics, "reward/mean": cost})
            after[name] = {**limits[name].advance(before, cost), **_marked(inner)}
    return _joined(after)


def report(limits: Mapping[str, Constraint], state: State, batch: Batch) -> Metrics:
    """Mean costs, how far over budget, multipliers and prices; and whether all budgets held.

    Nothing of a cost that no valid trajectory has is said but its multiplier and price. UserError
    where that is so in the first step: a name that no reward reports would never be held.
    """
    means = {name: mean(batch, name) for name in limits}
    known = [name for name in limits if not math.isnan(means[name])]
    for name in limits:
        if name not in known and batch.valid.any() and not own(state, name)["steps"]:
            raise UserError(missing(name, batch.costs))
    said: Metrics = {}
    if len(known) == len(limits):
        said["constraint/feasible"] = float(all(means[n] <= limits[n].budget for n in limits))
    for name in known:
        said[f"{MARK}{name}/cost"] = means[name]
        said[f"{MARK}{name}/excess"] = means[name] - limits[name].budget
    for name in limits:
        said[f"{MARK}{name}/multiplier"] = own(state, name)["multiplier"]
        said[f"{MARK}{name}/price"] = own(state, name)["price"]
    return said


def _marked(state: State) -> State:
    return {f"{INNER}{key}": value for key, value in state.items()}


def _inner(state: State) -> State:
    return {key.removeprefix(INNER): v for key, v in state.items() if key.startswith(INNER)}


def _joined(states: Mapping[str, State]) -> State:
    return {f"{MARK}{n}/{key}": v for n, state in states.items() for key, v in state.items()}


def _summed(batch: Batch, name: str) -> Tensor:
    """[row]: sampled tokens, turns or log-ratios to the reference, over the trajectory's rows."""
    _, member = batch.by_trajectory(batch.reward)
    zeros = torch.zeros(int(member.max()) + 1)
    if name == "turns":
        last = torch.where(batch.trained, batch.turn, -1).amax(1) + 1.0
        return zeros.scatter_reduce(0, member, last, "amax")[member]
    each = batch.trained.float()
    if name == "kl":
        if batch.old_logprobs is None or batch.ref_logprobs is None:
            raise ValueError("a cost of the KL needs old_logprobs and ref_logprobs filled")
        each = kl(batch.old_logprobs, batch.ref_logprobs, "k1") * batch.trained
    return zeros.index_add(0, member, each.sum(1))[member]


def _known(trajectory: Trajectory, name: str, place: int) -> float | None:
    if name == "length":
        return float(trajectory.length)
    if name == "turns":
        return float(sum(1 for _ in dict(replies(trajectory))))
    if name == "truncated":
        return float(trajectory.truncated)
    return float(place) if name == "kl" else graded(trajectory).costs.get(name)
