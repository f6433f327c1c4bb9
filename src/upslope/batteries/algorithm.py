"""What must hold of every algorithm, on a made-up batch and without a model.

The policy is a table: one log-probability for each token, which is also what gradients are taken
of. Each claim of ``batch.CLAIMS`` is checked where it is made, everything else always.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from upslope.batch import CLAIMS, Algorithm, Claim, Column, Couples, Read, State
from upslope.batteries.rows import Table, gradient, groups, renumbered, table, widened
from upslope.batteries.settings import prove_settings
from upslope.measures import merged, rollout_metrics
from upslope.optional import Critical, Reports
from upslope.selfcheck import Proof
from upslope.tally import Tally
from upslope.types import Metrics, UserError

PARTS = ("needs", "reads", "couples", "claims", "keep", "start", "advance", "advantages", "weights")
# Relative distance of one gradient computed in two ways: single-precision sums in another order.
ROUNDING = 1e-5


def check_algorithm(algorithm: Algorithm) -> list[Proof]:
    """Everything an algorithm owes; raises UserError, one sentence, at the first that fails."""
    name = type(algorithm).__name__
    missing = [part for part in (*PARTS, "loss") if part not in dir(algorithm)]
    if missing:
        raise UserError(f"{name} has no {missing[0]}: see batch.Algorithm for what one needs")
    proofs = [prove_settings(algorithm, "algorithm"), _declared(algorithm, name)]
    proofs += [_columns(algorithm, name), _gradient(algorithm, name), _invalid(algorithm, name)]
    proofs += [_nothing(algorithm, name), _extremes(algorithm, name)]
    for claim in sorted(algorithm.claims):
        CHECKS[claim](algorithm, name)
        proofs.append(Proof(CLAIMS[claim], "as it claims"))
    return [*proofs, _state(algorithm, name)]


def _declared(algorithm: Algorithm, name: str) -> Proof:
    declared: tuple[tuple[str, Collection[str], Any], ...] = (
        ("needs", algorithm.needs, Column),
        ("reads", algorithm.reads, Read),
        ("couples", [algorithm.couples], Couples),
        ("claims", algorithm.claims, Claim),
    )
    for what, given, known in declared:
        odd = sorted(set(given) - set(get_args(known)))
        if odd:
            raise UserError(
                f"{name}.{what} names {odd[0]!r}, and is of {', '.join(get_args(known))}"
            )
    _loaded(algorithm.start(), name)
    judged = {"values", "q"} & (algorithm.needs | algorithm.reads)
    if judged and not isinstance(algorithm, Critical):
        raise UserError(
            f"{name} wants {min(judged)} and lacks critic or learns: see optional.Critical"
        )
    if not isinstance(algorithm.keep(groups()[0]), bool):
        raise UserError(f"{name}.keep must answer True or False for a group")
    return Proof("it declares what the learner knows", ", ".join(sorted(algorithm.needs)) or "-")


def _columns(algorithm: Algorithm, name: str) -> Proof:
    """Advantages and weights: finite, without gradient, and 0 off the trained tokens."""
    seen = table(algorithm)
    assert seen.batch.advantages is not None
    for what, column in (
        ("advantages", seen.batch.advantages),
        ("weights", algorithm.weights(seen.batch)),
    ):
        if column.shape != seen.batch.tokens.shape or column.requires_grad:
            raise UserError(f"{name}.{what} must be one plain number for each [row token]")
        if not bool(column.isfinite().all()):
            raise UserError(f"{name}.{what} are not finite on a batch of ordinary rewards")
        if bool((column[~seen.batch.trained] != 0).any()):
            raise UserError(f"{name}.{what} are not 0 on tokens that are not trained")
    return Proof("advantages and weights are 0 off the trained tokens", f"{len(seen.batch)} rows")


def _gradient(algorithm: Algorithm, name: str) -> Proof:
    """Any split, order or padding of rows gives the same gradient."""
    seen = table(algorithm)
    _, whole = gradient(algorithm, seen)
    furthest = 0.0
    for budget in (1, 25):
        apart = _distance(whole, gradient(algorithm, seen, budget)[1])
        furthest = max(furthest, apart)
        if not apart <= ROUNDING:
            raise UserError(
                f"{name}'s gradient changes by {apart:.2g} of itself when the batch is split: its "
                "loss depends on the micro-batch; what needs the whole update belongs in weights"
            )
    order = torch.randperm(len(seen.batch), generator=torch.Generator().manual_seed(5))
    for what, other, rows in (
        ("order", table(algorithm, order), order.argsort()),
        ("padding", widened(seen, algorithm), torch.arange(len(order))),
        ("numbering", renumbered(seen, algorithm), torch.arange(len(order))),
    ):
        apart = _distance(whole, gradient(algorithm, other)[1][rows, : whole.shape[1]])
        furthest = max(furthest, apart)
        if not apart <= ROUNDING:
            raise UserError(
                f"{name}'s gradient changes by {apart:.2g} of itself with the {what} of rows: "
                "trajectories and groups are known by id, and only trained tokens count"
            )
    return Proof("any split, order, padding and ids give one gradient", f"within {furthest:.1e}")


def _invalid(algorithm: Algorithm, name: str) -> Proof:
    """What an invalid trajectory is said to have earned changes nothing."""
    seen = table(algorithm)
    said = replace(seen.batch, reward=torch.where(seen.batch.valid, seen.batch.reward, -1e4))
    said = replace(said, advantages=algorithm.advantages(said))
    _, before = gradient(algorithm, seen)
    _, after = gradient(algorithm, replace(seen, batch=said))
    if not _distance(before, after) <= ROUNDING:
        raise UserError(f"{name} lets an invalid reward vote: leave it out of its group's baseline")
    return Proof("invalid rewards do not vote", f"{int((~seen.batch.valid).sum())} invalid")


def _nothing(algorithm: Algorithm, name: str) -> Proof:
    """An update in which nothing is trained has loss and gradient 0, not NaN."""
    seen = table(algorithm)
    silent = replace(seen.batch, trained=torch.zeros_like(seen.batch.trained))
    silent = replace(silent, advantages=algorithm.advantages(silent))
    loss, grad = gradient(algorithm, replace(seen, batch=silent))
    if loss != 0 or bool((grad != 0).any()) or not bool(algorithm.weights(silent).isfinite().all()):
        raise UserError(f"{name} gives {loss} on a batch in which nothing is trained, instead of 0")
    return Proof("where nothing is trained, loss and gradient are 0", "0")


def _extremes(algorithm: Algorithm, name: str) -> Proof:
    """Log-ratios of +-1000 leave loss and gradient finite."""
    seen = table(algorithm)
    for far in (-1000.0, 1000.0):
        away = replace(seen.batch, old_logprobs=seen.logprobs + far)
        if seen.batch.ref_logprobs is not None:
            away = replace(away, ref_logprobs=seen.logprobs - far)
        loss, grad = gradient(algorithm, replace(seen, batch=away))
        if not (math.isfinite(loss) and bool(grad.isfinite().all())):
            raise UserError(f"{name} overflows at a log-ratio of {-far:g}: clamp it before exp")
    return Proof("extreme log-ratios stay finite", "+-1000")


def _equal_rewards(algorithm: Algorithm, name: str) -> None:
    seen = table(algorithm)
    for reward in (0.1, 1 / 3, 1000.1):
        same = replace(seen.batch, reward=torch.full_like(seen.batch.reward, reward))
        apart = float(algorithm.advantages(same).abs().max())
        if apart != 0:
            raise UserError(
                f"{name} claims no signal from equal rewards and gives rewards of {reward:g} "
                f"advantages of up to {apart:.2g}"
            )


def _alone(algorithm: Algorithm, name: str) -> None:
    seen = table(algorithm)
    alone = replace(seen.batch, group=seen.batch.trajectory)
    apart = float(algorithm.advantages(alone).abs().max())
    if apart != 0:
        raise UserError(
            f"{name} claims no signal from groups of one and gives these advantages of up to "
            f"{apart:.2g}"
        )


def _policy_gradient(algorithm: Algorithm, name: str) -> None:
    seen = table(algorithm)
    live = replace(seen.batch, old_logprobs=seen.logprobs)
    live = replace(live, advantages=seen.batch.advantages)
    _, grad = gradient(algorithm, replace(seen, batch=live))
    assert live.advantages is not None
    want = -live.advantages * algorithm.weights(live)
    policy = grad[..., :2]  # a critic's own is beside it
    if not _distance(torch.stack([want, torch.zeros_like(want)], -1), policy) <= ROUNDING:
        raise UserError(
            f"{name} claims the policy gradient, and at ratio 1 its gradient is not -advantage * "
            "weight for each log-probability"
        )


def _silent(algorithm: Algorithm, name: str) -> None:
    seen = table(algorithm)
    assert seen.batch.advantages is not None
    # Of a trajectory of two segments the second keeps what it learns.
    even = (torch.arange(len(seen.batch)) % 2 == 0) & (seen.batch.segment == 0)
    half = replace(seen.batch, advantages=torch.where(even[:, None], 0.0, seen.batch.advantages))
    quiet = replace(seen, batch=half)
    _, grad = gradient(algorithm, quiet)
    apart = _distance(grad, gradient(algorithm, quiet, skips=True)[1])
    if bool((grad[even] != 0).any()) or not apart <= ROUNDING:
        raise UserError(
            f"{name} claims that rows without advantage are silent, and they have a gradient: "
            "leave the claim out, or the learner will skip them"
        )


def _any_policy(algorithm: Algorithm, name: str) -> None:
    seen = table(algorithm)
    other = replace(seen.batch, engine_logprobs=seen.batch.engine_logprobs - 1)
    _, before = gradient(algorithm, seen)
    column, old = algorithm.advantages(other), seen.logprobs - 1
    other = replace(other, old_logprobs=torch.where(other.trained, old, 0.0))
    _, after = gradient(algorithm, replace(seen, batch=other))
    same = torch.equal(column, algorithm.advantages(seen.batch))
    if not (same and _distance(before, after) <= ROUNDING):
        raise UserError(
            f"{name} claims that whoever gave the answers changes nothing, and how likely they "
            "were to changes its gradient: leave the claim out"
        )


CHECKS: Mapping[Claim, Callable[[Algorithm, str], None]] = {
    "alone_no_signal": _alone,
    "any_policy": _any_policy,
    "equal_rewards_no_signal": _equal_rewards,
    "policy_gradient": _policy_gradient,
    "silent_without_advantage": _silent,
}


def _state(algorithm: Algorithm, name: str) -> Proof:
    """Its state is the same after a checkpoint, and does the same."""
    state = algorithm.start()
    for _ in range(3):
        back = _loaded(state, name)
        seen = table(algorithm)
        ours, theirs = (replace(seen.batch, state=s) for s in (state, back))
        if not torch.equal(algorithm.advantages(ours), algorithm.advantages(theirs)):
            raise UserError(f"{name} does not go on as before from a checkpoint of its state")
        state = algorithm.advance(state, _metrics(algorithm, seen))
    return Proof("its state survives a checkpoint", ", ".join(sorted(state)) or "it has none")


def _loaded(state: State, name: str) -> State:
    try:
        back: State = json.loads(json.dumps(dict(state), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}'s state must be finite numbers by name: {error}") from error
    if back != dict(state):
        raise UserError(f"{name}'s state {dict(state)} comes back from a checkpoint as {back}")
    return back


def _metrics(algorithm: Algorithm, seen: Table) -> Metrics:
    """What the loop tells ``advance`` after a step."""
    old = seen.batch.old_logprobs if seen.batch.old_logprobs is not None else seen.logprobs
    batch = replace(seen.batch, old_logprobs=old)
    loss, metrics = algorithm.loss(seen.outputs(algorithm), batch)
    tally = Tally()
    tally.drift(seen.logprobs, batch)
    tally.loss((loss * algorithm.weights(batch)).sum(), metrics, batch.trained)
    said = algorithm.report(batch) if isinstance(algorithm, Reports) else {}
    update = {**tally.metrics(), "update/grad_norm": 1.0, "update/skipped": 0.0}
    return rollout_metrics(groups(), 1) | merged([update]) | said


def _distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / |a|; infinite where one of them is not finite."""
    apart = float((a - b).norm()) / max(float(a.norm()), 1e-12)
    return apart if math.isfinite(apart) else math.inf
