"""Learning from preferences and from good answers: golden numbers, twins, finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learners import a_learner, gradient, policy, prepared, shifted
from records import group, invalid, problem, segment, trajectory
from upslope import advantages, pairwise
from upslope.algorithms.awr import AWR
from upslope.algorithms.dpo import DPO
from upslope.algorithms.ipo import IPO
from upslope.algorithms.kto import KTO
from upslope.algorithms.orpo import ORPO
from upslope.algorithms.raft import RAFT
from upslope.algorithms.sft import SFT
from upslope.algorithms.simpo import SimPO
from upslope.batch import Batch, Outputs
from upslope.types import Group

PAIRED = [
    DPO(),
    DPO(score="mean", beta=2.0, smoothing=0.1),
    DPO(form="hinge", beta=0.5),
    DPO(form="robust", smoothing=0.2, margin=0.3),
    IPO(),
    IPO(score="sum", beta=0.3),
    SimPO(),
    ORPO(beta=0.7),
]
OTHERS = [KTO(), KTO(good=2.0, bad=0.5, beta=0.4), RAFT(), RAFT(0.2, top=1), AWR(beta=0.7)]


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Golden vectors of the reference, and numbers by hand.


def test_golden_preference_losses():
    assert pairwise.dpo(numbers(1.5), 0.1).item() == pytest.approx(0.620957, abs=1e-6)
    assert pairwise.ipo(numbers(1.5), 0.1).item() == pytest.approx(12.25)
    simpo = pairwise.simpo(numbers(-1), numbers(-1.4), 2.0, 0.5)
    assert simpo.item() == pytest.approx(0.554355, abs=1e-6)
    odds = pairwise.log_odds(numbers(-0.5), numbers(-1.2))
    assert odds.item() == pytest.approx(1.274370, abs=1e-6)
    orpo = pairwise.orpo(numbers(-0.5), numbers(-1.2), 1.0)
    assert orpo.item() == pytest.approx(0.5 + 0.246553, abs=1e-6)


def test_forms_of_dpo_by_hand():
    delta, e = numbers(2.0), np.exp
    right, wrong = np.log1p(e(-1.0)), np.log1p(e(1.0))
    assert pairwise.dpo(delta, 0.5).item() == pytest.approx(right)
    assert pairwise.dpo(delta, 0.5, smoothing=0.1).item() == pytest.approx(
        0.9 * right + 0.1 * wrong
    )
    robust = (0.9 * right - 0.1 * wrong) / 0.8
    assert pairwise.dpo(delta, 0.5, "robust", 0.1).item() == pytest.approx(robust)
    assert pairwise.dpo(numbers(1.0, 3.0), 0.5, "hinge").tolist() == [0.5, 0.0]


def test_robust_dpo_is_unbiased_under_flipped_labels():
    """With a share of labels flipped its expectation is the loss of the true ones."""
    delta, share = numbers(0.7), 0.3
    loss = [pairwise.dpo(d, 0.5, "robust", share).item() for d in (delta, -delta)]
    clean = pairwise.dpo(delta, 0.5).item()
    assert (1 - share) * loss[0] + share * loss[1] == pytest.approx(clean)


def test_kto_by_hand():
    good = torch.tensor([True, False])
    loss = pairwise.kto(numbers(3.0, 3.0), good, numbers(1.0, 1.0), 0.5)
    assert loss.tolist() == pytest.approx([1 - 1 / (1 + np.exp(-1)), 1 - 1 / (1 + np.exp(1))])


def test_certainty_has_finite_odds():
    chosen = numbers(0.0).requires_grad_()
    loss = pairwise.orpo(chosen, numbers(-50.0), 0.1)
    loss.backward()
    assert bool(loss.isfinite().all())
    assert bool(chosen.grad.isfinite().all())


def test_sides_are_the_best_and_the_worst_valid_members():
    rewards = torch.tensor([1.0, 0.5, 0.0, 1.0, 9.0, 2.0, 2.0, 3.0])
    ids = torch.tensor([7, 7, 7, 7, 7, 4, 4, 5])
    valid = torch.tensor([True, True, True, True, False, True, True, True])
    want = [0.5, 0, -1, 0.5, 0, 0, 0, 0]
    assert pairwise.sides(rewards, ids, valid).tolist() == want


def test_exponential_weights_by_hand():
    got = advantages.exponential(torch.tensor([0.5, -0.5, 100.0]), 0.5, 20.0)
    assert got.tolist() == pytest.approx([np.e, 1 / np.e, 20.0])


# A batch with what commonly breaks pairs, and its loss written out in numpy.


def batch(seed: int = 0) -> Batch:
    """Ties at both ends, a middle, an invalid member, two segments, no winner, shuffled rows."""
    of = problem("two segments")
    double = trajectory(of, [segment([4, 5]), segment([6, 7, 8], [1, 2])], 1.0)
    groups = [
        group([1.0, 0.0, 0.25, 1.0, 0.0], id="a"),
        group([0.5, 0.5], prompt=[9, 10], id="equal"),
        Group(of, (double, trajectory(of, [segment([9])], 0.0, member=1))),
        group([0.2, invalid(5.0), 0.6], prompt=[3, 3, 4, 5], id="invalid"),
        group([1.0], prompt=[3, 4], id="alone"),
    ]
    whole = Batch.of(groups)
    draw = torch.Generator().manual_seed(seed)
    whole = whole.rows(torch.randperm(len(whole), generator=draw))
    ref = -3 * torch.rand(whole.tokens.shape, generator=draw, dtype=torch.float64)
    old = -3 * torch.rand(whole.tokens.shape, generator=draw, dtype=torch.float64)
    columns = {"ref_logprobs": ref, "old_logprobs": old, "reward": whole.reward.double()}
    return replace(whole, **columns)


def filled(algorithm: Any, whole: Batch) -> Batch:
    whole = replace(whole, advantages=algorithm.advantages(whole))
    return replace(whole, weights=algorithm.weights(whole))


def logprobs_of(whole: Batch) -> Tensor:
    draw = torch.Generator().manual_seed(9)
    return -3 * torch.rand(whole.tokens.shape, generator=draw, dtype=torch.float64)


def update_loss(algorithm: Any, whole: Batch, logprobs: Tensor) -> Tensor:
    loss, _ = algorithm.loss(Outputs(logprobs), whole)
    return torch.where(whole.trained, loss * whole.weights, 0.0).sum()


def answers(whole: Batch, column: np.ndarray) -> dict[int, dict[int, tuple[float, int, float]]]:
    """Sum over its tokens, their number, and reward of each trajectory, by group."""
    found: dict[int, dict[int, tuple[float, int, float]]] = {}
    for row in range(len(whole)):
        mask = whole.trained[row].numpy()
        if whole.valid[row]:
            own = found.setdefault(int(whole.group[row]), {})
            total, count, _ = own.get(int(whole.trajectory[row]), (0.0, 0, 0.0))
            more = float(column[row][mask].sum()), int(mask.sum())
            own[int(whole.trajectory[row])] = (
                total + more[0],
                count + more[1],
                float(whole.reward[row]),
            )
    return found


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def pair_loss(
    algorithm: Any, won: tuple[float, int, float], lost: tuple[float, int, float]
) -> float:
    """One pair's loss, from (sum of log-ratios or log-probabilities, tokens, reward)."""
    (a, n, high), (b, m, low) = won, lost
    if isinstance(algorithm, SimPO):
        return -np.log(sigmoid(algorithm.beta * (a / n - b / m) - algorithm.gamma))
    if isinstance(algorithm, ORPO):
        odds = [p - np.log(1 - np.exp(p)) for p in (a / n, b / m)]
        return -a / n - algorithm.beta * np.log(sigmoid(odds[0] - odds[1]))
    delta = a - b if algorithm.score == "sum" else a / n - b / m
    if isinstance(algorithm, IPO):
        return float((delta - 0.5 / algorithm.beta) ** 2)
    x = algorithm.beta * delta - algorithm.margin * (high - low)
    right, wrong, e = -np.log(sigmoid(x)), -np.log(sigmoid(-x)), algorithm.smoothing
    if algorithm.form == "hinge":
        return max(0.0, 1 - x)
    flat = (1 - e) * right + e * wrong
    return float(
        ((1 - e) * right - e * wrong) / (1 - 2 * e) if algorithm.form == "robust" else flat
    )


def twin(algorithm: Any, whole: Batch, logprobs: np.ndarray) -> float:
    """The update's loss, written out."""
    ref = whole.ref_logprobs.numpy()
    if isinstance(algorithm, KTO):
        apart = [t for g in answers(whole, logprobs - ref).values() for t in g.values()]
        before = answers(whole, whole.old_logprobs.numpy() - ref)
        z = max(0.0, float(np.mean([t[0] for g in before.values() for t in g.values()])))
        losses = [
            algorithm.good * (1 - sigmoid(algorithm.beta * (r - z)))
            if earned > algorithm.threshold
            else algorithm.bad * (1 - sigmoid(algorithm.beta * (z - r)))
            for r, _, earned in apart
        ]
        return float(np.mean(losses))
    free = isinstance(algorithm, SimPO | ORPO)
    losses = []
    for members in answers(whole, logprobs if free else logprobs - ref).values():
        high, low = (f(t[2] for t in members.values()) for f in (max, min))
        won = [t for t in members.values() if t[2] == high]
        lost = [t for t in members.values() if t[2] == low]
        if high > low:
            losses.append(np.mean([pair_loss(algorithm, w, x) for w in won for x in lost]))
    assert len(losses) == 3
    return float(np.mean(losses))


@pytest.mark.parametrize("algorithm", [*PAIRED, *OTHERS[:2]], ids=repr)
def test_loss_and_gradient_equal_the_twins(algorithm):
    """The gradient by central differences of the numpy twin."""
    whole = filled(algorithm, batch())
    logprobs = logprobs_of(whole).requires_grad_()
    loss = update_loss(algorithm, whole, logprobs)
    loss.backward()
    at = logprobs.detach().numpy()
    assert loss.item() == pytest.approx(twin(algorithm, whole, at), rel=1e-6)
    assert float(logprobs.grad.abs().max()) > 1e-3
    for row, token in whole.trained.nonzero().tolist():
        step = np.zeros_like(at)
        step[row, token] = 1e-5
        slope = (twin(algorithm, whole, at + step) - twin(algorithm, whole, at - step)) / 2e-5
        assert logprobs.grad[row, token].item() == pytest.approx(slope, abs=2e-6)
    assert (logprobs.grad[~whole.trained] == 0).all()


def test_the_loss_of_a_pair_lies_at_the_last_trained_token_of_its_first_row():
    whole = filled(DPO(), Batch.of([group([0.5, 1.0, 0.0], [[4, 5], [6], [7, 8, 9]])]))
    assert whole.weights.nonzero().tolist() == [[1, 3]]
    assert whole.weights[1, 3] == 1


def test_what_the_policy_makes_of_the_pairs():
    whole = filled(DPO(beta=0.5), Batch.of([group([1.0, 0.0], [[4], [5]])]))
    whole = replace(whole, ref_logprobs=torch.zeros(whole.tokens.shape))
    logprobs = torch.zeros(whole.tokens.shape)
    logprobs[0, 3], logprobs[1, 3] = -1.0, -3.0
    _, metrics = DPO(beta=0.5).loss(Outputs(logprobs), whole)
    assert metrics["preference/margin"][whole.trained].tolist() == [1.0, 1.0]
    assert metrics["preference/accuracy"][whole.trained].tolist() == [1.0, 1.0]


# In the learner: any split, and nothing skipped that a pair needs.


@pytest.mark.parametrize("algorithm", [PAIRED[3], IPO(), ORPO(), *OTHERS], ids=repr)
def test_any_split_gives_one_gradient_and_what_is_skipped_has_none(algorithm, monkeypatch):
    one = policy()
    learner = a_learner(one, reference=shifted(one))
    made = batch()
    made = replace(made, ref_logprobs=None, old_logprobs=None, reward=made.reward.float())
    whole = prepared(learner, algorithm, made)
    want, tally = gradient(learner, whole, algorithm)
    assert want.norm() > 0
    got, split = gradient(learner, whole, algorithm, 1)
    assert (want - got).norm() <= 2e-5 * want.norm()
    assert split.metrics() == pytest.approx(tally.metrics(), rel=1e-4, abs=1e-6)
    monkeypatch.setattr(type(algorithm), "claims", frozenset())
    every, _ = gradient(learner, whole, algorithm)
    assert (want - every).norm() <= 2e-5 * want.norm()


def test_members_between_the_best_and_the_worst_are_not_computed():
    learner = a_learner()
    whole = prepared(learner, SimPO(), Batch.of([group([0.0, 0.5, 1.0], [[4], [5] * 20, [6]])]))
    _, tally = gradient(learner, whole, SimPO())
    assert tally.live == pytest.approx(2 / 22)


# Imitation.


def test_raft_imitates_what_is_good_enough():
    made = Batch.of([group([1.0, 0.0, 0.5, invalid(3.0)]), group([0.2, 0.1], id="b")])
    assert RAFT(0.5).advantages(made)[:, 3].tolist() == [1, 0, 1, 0, 0, 0]
    assert RAFT(0.0, top=1).advantages(made)[:, 3].tolist() == [1, 0, 0, 0, 1, 0]
    assert RAFT(0.5, top=2).advantages(made)[:, 3].tolist() == [1, 0, 1, 0, 0, 0]
    tied = Batch.of([group([1.0, 1.0, 0.0])])
    assert RAFT(0.0, top=1).advantages(tied)[:, 3].tolist() == [1, 1, 0]
    assert not RAFT().keep(group([0.5, invalid(2.0)]))
    assert RAFT().keep(group([0.5, 1.0]))


def test_raft_is_sft_of_the_good_answers():
    made = Batch.of([group([1.0, 0.0, 1.0])])
    good = Batch.of([group([1.0, 1.0], [[4, 5], [4, 5, 6, 7]])])
    logprobs = logprobs_of(made).float()
    few = logprobs[[0, 2]]
    for how in ("token", "sequence"):
        left = update_loss(RAFT(aggregation=how), filled(RAFT(aggregation=how), made), logprobs)
        right = update_loss(SFT(how), filled(SFT(how), good), few)
        assert left.item() == pytest.approx(right.item())


def test_awr_weighs_answers_by_how_much_they_beat_their_baseline():
    made = Batch.of([group([1.0, 0.0]), group([1.0], id="b")])
    third = np.exp(np.array([1 / 3, -2 / 3, 1 / 3]) / 0.5)
    cases = {
        AWR(): [np.e, 1 / np.e, 1.0],
        AWR(baseline="batch"): third,
        AWR(baseline="given", given=0.4): np.exp(np.array([1.2, -0.8, 1.2])),
        AWR(beta=0.1): [20.0, np.exp(-5), 1.0],
    }
    for algorithm, want in cases.items():
        assert algorithm.advantages(made)[:, 3].tolist() == pytest.approx(list(want), rel=1e-5)


def test_awr_with_a_large_beta_is_sft():
    made = Batch.of([group([1.0, 0.0, 0.3])])
    logprobs = logprobs_of(made).float()
    even, sft = AWR(beta=1e9), SFT()
    left = update_loss(even, filled(even, made), logprobs)
    assert left.item() == pytest.approx(update_loss(sft, filled(sft, made), logprobs).item())


# Settings that mean nothing.


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: DPO(beta=0.0), "beta must be above 0"),
        (lambda: DPO(smoothing=0.5), "smoothing is a share of labels below 0.5"),
        (lambda: DPO(form="hinge", smoothing=0.1), "a hinge has no smoothing"),
        (lambda: IPO(beta=0.0), "beta must be above 0"),
        (lambda: SimPO(gamma=-1.0), "gamma not negative"),
        (lambda: ORPO(beta=-1.0), "beta must not be negative"),
        (lambda: KTO(bad=-1.0), "good and bad not negative"),
        (lambda: RAFT(top=-1), "top is a number of answers"),
        (lambda: AWR(most=0.0), "beta and most must be above 0"),
        (lambda: AWR(given=0.4), 'set baseline = "given"'),
    ],
)
def test_settings_that_mean_nothing_are_refused(made, says):
    with pytest.raises(ValueError, match=says):
        made()
