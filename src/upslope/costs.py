"""The costs of a batch by name, and what the state of ``constrained`` holds of each.

``length``, ``turns``, ``truncated`` and ``kl`` every trajectory has; the others are a reward's.
"""

from __future__ import annotations

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
MARK = "constraint/"


def of(batch: Batch, name: str) -> Tensor:
    """[row]: a cost of the row's trajectory. UserError where no reward of the batch reports it."""
    if name == "truncated":
        return batch.truncated.float()
    if name in OWN:
        return _summed(batch, name)
    if name not in batch.costs:
        raise UserError(missing(name, batch.costs))
    return batch.costs[name]


def mean(batch: Batch, name: str) -> float:
    """Over valid trajectories; 0 where there are none."""
    cost, _ = batch.by_trajectory(of(batch, name))
    valid, _ = batch.by_trajectory(batch.valid)
    return float(cost[valid].double().mean()) if bool(valid.any()) else 0.0


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
        plays = tuple(
            replace(t, reward=Reward(_known(t, name, i), valid=graded(t).valid))
            for i, t in enumerate(group.trajectories)
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
    """The same with a cost in place of the reward."""
    return replace(inside(batch), reward=of(batch, name), earned=None, bare=True)


def begun(limits: Mapping[str, Constraint]) -> State:
    """All constraints' states before the first step, as one."""
    return _joined({name: limit.begin() for name, limit in limits.items()})


def advanced(limits: Mapping[str, Constraint], state: State, metrics: Metrics) -> State:
    """The same after a step with the mean costs of ``report``."""
    cost = {name: metrics[f"{MARK}{name}/cost"] for name in limits}
    return _joined({n: limit.advance(own(state, n), cost[n]) for n, limit in limits.items()})


def report(limits: Mapping[str, Constraint], state: State, batch: Batch) -> Metrics:
    """Mean costs, how far over budget, multipliers and prices; and whether all budgets held."""
    means = {name: mean(batch, name) for name in limits}
    said = {"constraint/feasible": float(all(means[n] <= limits[n].budget for n in limits))}
    for name, limit in limits.items():
        said[f"{MARK}{name}/cost"] = means[name]
        said[f"{MARK}{name}/excess"] = means[name] - limit.budget
        said[f"{MARK}{name}/multiplier"] = own(state, name)["multiplier"]
        said[f"{MARK}{name}/price"] = own(state, name)["price"]
    return said


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


def _known(trajectory: Trajectory, name: str, place: int) -> float:
    if name == "length":
        return float(trajectory.length)
    if name == "turns":
        return float(sum(1 for _ in dict(replies(trajectory))))
    if name == "truncated":
        return float(trajectory.truncated)
    return float(place) if name == "kl" else graded(trajectory).costs.get(name, 0.0)
