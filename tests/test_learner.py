"""The learner on a tiny Llama: gradients, updates, what it refuses, and what it says it spent."""

from __future__ import annotations

import copy
import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from counting import counter
from learners import a_learner, gradient, plain, policy, prepared, shifted
from records import group, invalid, problem, segment, trajectory
from upslope.advantages import Overlong
from upslope.algorithms.cispo import CISPO
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.reinforce import Reinforce
from upslope.algorithms.rloo import RLOO
from upslope.algorithms.sft import SFT
from upslope.algorithms.turns import Turns
from upslope.batch import Batch
from upslope.learner import Learner
from upslope.ledger import Ledger
from upslope.losses import KL, Entropy
from upslope.models.logprobs import unpacked
from upslope.settings import Learner as Settings
from upslope.settings import Rollout
from upslope.train import optimise
from upslope.types import Group, UserError

LENGTH = 10
ALGORITHMS = [
    GRPO(),
    GRPO(aggregation="token"),
    RLOO(aggregation="constant", length=LENGTH),
    DrGRPO(length=LENGTH),
    CISPO(scale="batch"),
    Reinforce(),
    SFT(),
    GRPO(kl=KL(0.2, "k3")),
    RLOO(kl=KL(0.2, "k1", "reward")),
    GSPO(),
    GRPO(zero_variance="drop", overlong=Overlong(mask=True)),
    GRPO(entropy=Entropy(0.1)),
]


def batch() -> Batch:
    """Groups of unequal size, of which one has no signal, one no pair and one two segments."""
    of = problem("two segments")
    double = trajectory(of, [segment([4, 5]), segment([6, 7, 8], [1, 2])], 1.0)
    groups = [
        group([1.0, 0.0, 0.25], id="a"),
        group([0.5, 0.5, 0.5], prompt=[9, 10], id="equal"),
        Group(of, (double, trajectory(of, [segment([9])], 0.0, member=1))),
        group([1.0, invalid()], prompt=[3, 3, 4, 5], id="alone"),
        group([0.0, 2.0, 0.0, 1.0], prompt=[11, 2, 1], id="b", temperature=0.7),
    ]
    return Batch.of(groups)


def off_policy(of: Batch) -> Batch:
    """Old log-probabilities at hand, so that ratios are not 1."""
    noise = torch.rand(of.tokens.shape, generator=torch.Generator().manual_seed(3)) - 0.5
    return replace(of, old_logprobs=torch.where(of.trained, -2.5 + noise, 0.0))


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.policy.model.parameters()])


def wider(of: Batch, by: int = 6) -> Batch:
    columns = {
        k: F.pad(v, (0, by)) for k, v in vars(of).items() if torch.is_tensor(v) and v.ndim == 2
    }
    return replace(of, **columns)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() <= 2e-5 * a.norm()) and bool(a.norm() > 0)


# One gradient, whatever the layout.


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_gradient_depends_on_no_split_order_or_padding(algorithm):
    one = policy()
    learner = a_learner(one, reference=shifted(one))
    whole = off_policy(prepared(learner, algorithm, batch()))
    want, tally = gradient(learner, whole, algorithm)
    got, split = gradient(learner, whole, algorithm, 25)
    assert same(want, got)
    assert split.total == pytest.approx(tally.total, rel=1e-5)
    assert split.metrics() == pytest.approx(tally.metrics(), rel=1e-4, abs=1e-6)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1))
    shuffled = batch().rows(order)
    shuffled = replace(
        prepared(learner, algorithm, shuffled), old_logprobs=whole.old_logprobs[order]
    )
    assert same(want, gradient(learner, shuffled, algorithm, 1)[0])
    assert same(want, gradient(learner, wider(whole), algorithm)[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS[:6], ids=repr)
def test_dead_rows_are_skipped_with_the_same_gradient(algorithm, monkeypatch):
    learner = a_learner()
    whole = off_policy(prepared(learner, algorithm, batch()))
    want, tally = gradient(learner, whole, algorithm)
    monkeypatch.setattr(type(algorithm), "claims", frozenset())
    got, every = gradient(learner, whole, algorithm)
    assert every.live == 1.0
    # Reinforce, whose baseline is 0, skips only replies that earned nothing.
    assert 0 < tally.live < 0.9
    assert same(want, got)


@pytest.mark.parametrize("algorithm", [GSPO(0.2, 0.2), Turns(GSPO(0.2, 0.2))], ids=repr)
def test_a_segment_that_learns_nothing_counts_in_its_trajectorys_ratio(algorithm, monkeypatch):
    """As a turn whose reward to go is the mean, or one held back for its low entropy."""
    learner = a_learner()
    whole = off_policy(prepared(learner, algorithm, batch()))
    second = (whole.segment == 1)[:, None]
    whole = replace(whole, advantages=torch.where(second, 0.0, whole.advantages))
    want, tally = gradient(learner, whole, algorithm)
    assert 0 < tally.live < 0.9
    monkeypatch.setattr(type(algorithm), "claims", frozenset())
    assert same(want, gradient(learner, whole, algorithm)[0])


def test_a_batch_without_signal_moves_nothing_and_still_shows_its_drift():
    learner = a_learner()
    dead = Batch.of([group([1.0, 1.0]), group([0.0, 0.0], id="b")])
    before = weights(learner)
    metrics = learner.update(prepared(learner, GRPO(), dead), GRPO())
    assert metrics["update/live_share"] == metrics["update/loss"] == 0
    assert metrics["update/grad_norm"] == 0
    assert metrics["drift/max"] > 0
    assert torch.equal(before, weights(learner))


def test_without_old_logprobs_the_ratio_is_exactly_one():
    learner = a_learner(micro_tokens=20)
    metrics = learner.update(prepared(learner, GRPO(), batch()), GRPO())
    assert metrics["ratio/mean"] == metrics["ratio/max"] == 1.0
    assert metrics["clip/share"] == 0


def test_filled_old_logprobs_are_the_live_ones_and_stay_behind():
    learner = a_learner(micro_tokens=20)
    filled = learner.fill(prepared(learner, GRPO(), batch()), ["old_logprobs"])
    _, tally = gradient(learner, filled, GRPO())
    assert tally.metrics()["ratio/max"] == pytest.approx(1.0, abs=1e-5)
    assert (filled.old_logprobs[~filled.trained] == 0).all()
    learner.update(filled, GRPO())
    assert abs(learner.update(filled, GRPO())["ratio/max"] - 1) > 1e-3


def test_the_temperature_that_sampled_divides_the_logits():
    learner = a_learner()
    cold, warm = (
        learner.fill(Batch.of([group([1.0, 0.0], temperature=t)]), ["old_logprobs"]).old_logprobs
        for t in (0.5, 1.0)
    )
    logits = plain(learner.policy)(torch.tensor([[1, 2, 3, 4, 5]])).logits[0, 2:4]
    for got, temperature in ((cold, 0.5), (warm, 1.0)):
        want = (logits / temperature).log_softmax(-1)[[0, 1], [4, 5]]
        torch.testing.assert_close(got[0, 3:5], want, atol=1e-5, rtol=0)


# Updates and epochs.


class Recorder:
    """A learner that only writes down what it is asked to update with."""

    def __init__(self) -> None:
        self.parts: list[Batch] = []
        self.corrections: list[Rollout | None] = []
        self.filled: list[str] = []

    def fill(self, of: Batch, columns: list[str]) -> Batch:
        self.filled = list(columns)
        return replace(of, **{name: torch.full(of.tokens.shape, -0.5) for name in columns})

    def update(self, of: Batch, algorithm: Any, correction: Rollout | None) -> dict[str, float]:
        self.parts.append(of)
        self.corrections.append(correction)
        return {"ratio/mean": 1.0}


def optimised(rollout: Rollout | None = None, **settings: Any) -> Recorder:
    class Parts:
        seed = 5
        algorithm = GRPO()
        learner = Recorder()

        class stage:  # noqa: N801
            pass

    Parts.stage.rollout, Parts.stage.learner = rollout or Rollout(), Settings(**settings)
    groups = [group([1.0, 0.0], id=str(i)) for i in range(6)]
    optimise(Parts, Batch.of(groups), step=2)
    return Parts.learner


def test_every_epoch_covers_every_group_once_in_another_order():
    parts = optimised(updates=3, epochs=2).parts
    epochs = [[sorted(set(p.group.tolist())) for p in parts[i : i + 3]] for i in (0, 3)]
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == list(range(6))
        assert [len(p) for p in epoch] == [2, 2, 2]
    assert epochs[0] != epochs[1]
    assert all(len(p) == 4 for p in parts)  # groups stay whole


def kept_bytes(learner: Learner, batch: Batch) -> int:
    """What the passes of an update keep until their backward pass, beside the weights."""
    own = {p.untyped_storage().data_ptr() for p in learner.policy.model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        learner.accumulate(batch, GRPO(), 10_000)
    return sum(kept.values())


@pytest.mark.parametrize("packs", [True, False])
def test_checkpointing_keeps_less_for_the_same_gradient_and_its_work_is_counted(packs):
    grads, kept = [], []
    for checkpointing in (False, True):
        of, ledger = policy(layers=6), Ledger()
        settings = Settings(micro_tokens=10_000, checkpointing=checkpointing)
        learner = Learner(of, settings, ledger.add)
        of.lean = False  # checkpointing runs through the modules: so does what it is held against
        whole = off_policy(prepared(learner, GRPO(), batch()))
        before = ledger.totals().flops
        with nullcontext() if packs else unpacked(of):
            with counter() as counted:
                grads.append(gradient(learner, whole, GRPO())[0])
            spent = ledger.totals().flops - before
            assert spent == pytest.approx(counted.get_total_flops(), rel=0.02)
            kept.append(kept_bytes(learner, whole))
    torch.testing.assert_close(grads[0], grads[1], atol=0, rtol=0)
    assert kept[1] < kept[0] / 3


def test_only_the_first_update_at_staleness_zero_has_live_old_logprobs():
    seen = optimised(updates=2, epochs=2)
    assert seen.filled == ["old_logprobs"]
    assert [p.old_logprobs is None for p in seen.parts] == [True, False, False, False]
    assert seen.corrections == [None] * 4
    assert optimised().filled == []  # one update needs no extra pass


def test_both_corrections_of_staleness():
    rollout = Rollout(max_staleness=2, importance_cap=3.0)
    decoupled = optimised(rollout, updates=2)
    assert decoupled.filled == ["old_logprobs"]
    assert all((part.old_logprobs == -0.5).all() for part in decoupled.parts)
    assert decoupled.corrections == [rollout] * 2
    once = optimised(rollout)
    assert once.filled == []  # its own values are the old ones: no extra pass
    assert once.parts[0].old_logprobs is None
    assert once.corrections == [rollout]
    seen = optimised(Rollout(max_staleness=2, correction="bypass"))
    (bypass,) = seen.parts
    assert seen.corrections == [None]
    assert torch.equal(bypass.old_logprobs, bypass.engine_logprobs)


WEIGHTS = {  # of log-ratios of log 3, log 1.5 and log 0.25
    Rollout(importance_cap=2.0): (2.0, 1.5, 0.25),
    Rollout(importance_cap=2.0, importance_floor=0.5): (2.0, 1.5, 0.5),
    Rollout(importance="mask", importance_cap=2.0): (0.0, 1.5, 0.25),
    Rollout(importance="mask", importance_cap=2.0, importance_floor=0.5): (0.0, 1.5, 0.0),
}


@pytest.mark.parametrize("rollout", WEIGHTS, ids=lambda r: f"{r.importance}-{r.importance_floor}")
def test_tokens_are_weighed_by_old_over_engine_within_bounds(rollout):
    learner, algorithm = a_learner(), RLOO()
    part = prepared(learner, algorithm, Batch.of([group([1.0, 0.0], [[4, 5, 6], [7, 8]])]))
    part = learner.fill(part, ["old_logprobs"])
    plain, _ = gradient(learner, part, algorithm)
    for rho, weight in zip((3, 1.5, 0.25), WEIGHTS[rollout], strict=True):
        said = replace(part, engine_logprobs=part.old_logprobs - math.log(rho))
        got, tally = gradient(learner, said, algorithm, correction=rollout)
        torch.testing.assert_close(got, weight * plain, atol=1e-6, rtol=1e-4)
        assert same(plain, gradient(learner, said, algorithm)[0])  # no correction, no weight
        seen = tally.metrics()
        assert seen["importance/mean"] == pytest.approx(weight, abs=1e-6)
        assert seen["importance/outside_share"] == float(abs(weight - rho) > 1e-6)
        assert seen["importance/effective_share"] == pytest.approx(float(weight > 0))


@pytest.mark.parametrize("rollout", WEIGHTS, ids=lambda r: f"{r.importance}-{r.importance_floor}")
@pytest.mark.parametrize("algorithm", [RLOO(), GRPO()], ids=["rloo", "grpo"])
def test_a_single_update_is_weighed_by_its_own_values_as_by_filled_ones(rollout, algorithm):
    """Whatever it is split into: same gradient, and the same metrics but for dead rows."""
    learner, draw = a_learner(), torch.Generator().manual_seed(0)
    groups = [group([1.0, 0.0, 0.0], [[4, 5, 6], [7, 8], [5]], id=f"p{i}") for i in range(3)]
    part = prepared(learner, algorithm, Batch.of(groups))
    part = learner.fill(part, ["old_logprobs"])
    apart = torch.randn(part.tokens.shape, generator=draw)
    filled = replace(part, engine_logprobs=part.old_logprobs + apart)
    live = replace(filled, old_logprobs=None)
    expected, told = gradient(learner, filled, algorithm, correction=rollout)
    for budget in (8, 10_000):
        got, tally = gradient(learner, live, algorithm, budget, correction=rollout)
        torch.testing.assert_close(got, expected, atol=1e-7, rtol=1e-5)
        for name, value in told.metrics().items():
            assert tally.metrics()[name] == pytest.approx(value, abs=1e-5), name
    assert 0 < told.metrics()["importance/effective_share"] < 1


def test_a_masked_token_stays_in_the_mean_and_rubbish_off_the_trained_ones_is_not_weighed():
    learner, algorithm = a_learner(), RLOO()
    part = prepared(learner, algorithm, Batch.of([group([1.0, 0.0], [[4, 5], [7, 8]])]))
    part = learner.fill(part, ["old_logprobs"])
    apart = torch.where(part.trained, 0.0, -77.0)
    apart[:, 4] = 5.0  # the second token of each reply
    said = replace(part, engine_logprobs=part.old_logprobs + apart)
    rollout = Rollout(importance="mask", importance_floor=0.5)
    got, tally = gradient(learner, said, algorithm, correction=rollout)
    first = replace(part, trained=part.trained & (torch.arange(5) < 4))
    torch.testing.assert_close(got, gradient(learner, first, algorithm)[0] / 2)
    assert tally.metrics()["importance/outside_share"] == 0.5
    assert tally.metrics()["importance/effective_share"] == pytest.approx(0.5)


# Steps.


def test_the_learning_rate_warms_up():
    learner = a_learner(warmup=3, lr=0.4)
    part = prepared(learner, GRPO(), batch())
    rates = []
    for _ in range(6):
        learner.update(part, GRPO())
        rates.append(learner.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_clip_bounds_the_step_and_reports_the_norm_before_it():
    part = prepared(a_learner(), GRPO(), batch())
    free, held = a_learner(), a_learner(clip=1e-3)
    assert held.update(part, GRPO())["update/grad_norm"] == pytest.approx(
        free.update(part, GRPO())["update/grad_norm"]
    )
    moments = [held.optimiser.state[p]["exp_avg"].norm() for p in held.policy.model.parameters()]
    assert torch.stack(moments).norm() == pytest.approx(0.1 * 1e-3, rel=1e-3)


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_at_last_refused(fault, monkeypatch):
    learner = a_learner(bad_steps=2)
    good = prepared(learner, GRPO(), batch())
    learner.update(good, GRPO())
    before, state = weights(learner), copy.deepcopy(learner.optimiser.state_dict())
    bad = good
    if fault == "loss":
        row = good.advantages[:1] * torch.nan
        bad = replace(good, advantages=torch.cat([row, good.advantages[1:]]))
    else:
        first = next(learner.policy.model.parameters())
        hook = first.register_hook(lambda grad: grad * math.inf)
    for count in (1, 2):
        assert learner.update(bad, GRPO())["update/skipped"] == count
        assert all(p.grad is None for p in learner.policy.model.parameters())
    assert torch.equal(weights(learner), before)
    torch.testing.assert_close(
        learner.optimiser.state_dict(), state, rtol=0, atol=0, equal_nan=True
    )
    assert learner.done == 1
    with pytest.raises(UserError, match="not finite in 3 updates in a row"):
        learner.update(bad, GRPO())
    if fault == "gradient":
        hook.remove()
    assert learner.update(good, GRPO())["update/skipped"] == 0
    assert not torch.equal(weights(learner), before)


def test_state_goes_on_as_if_never_interrupted():
    straight = a_learner(warmup=4)
    part = prepared(straight, GRPO(), batch())
    straight.update(part, GRPO())
    resumed = a_learner(copy.deepcopy(straight.policy), warmup=4)
    resumed.load_state(copy.deepcopy(straight.state()))
    for learner in (straight, resumed):
        learner.update(part, GRPO())
    assert torch.equal(weights(straight), weights(resumed))


def test_ref_logprobs_come_from_the_reference():
    one = policy()
    reference = shifted(one)
    learner = a_learner(one, reference=reference, micro_tokens=20)
    filled = learner.fill(batch(), ["old_logprobs", "ref_logprobs"])
    want = Learner(reference, learner.settings, lambda *spent: None).fill(batch(), ["old_logprobs"])
    torch.testing.assert_close(filled.ref_logprobs, want.old_logprobs, atol=1e-6, rtol=0)
    assert (filled.ref_logprobs - filled.old_logprobs).abs().max() > 0.01
    with pytest.raises(ValueError, match="without a reference"):
        a_learner().fill(batch(), ["ref_logprobs"])


# What it says it spent.


@pytest.mark.parametrize("budget", [25, 10_000])
def test_spending_is_what_the_flop_counter_counts(budget):
    spent = {"update": 0.0, "reference": 0.0}
    tokens = {"update": 0, "reference": 0}

    def spend(phase: str, flops: float, count: int) -> None:
        spent[phase] += flops
        tokens[phase] += count

    one = policy()
    algorithm = RLOO(kl=KL(0.1, "k1", "reward"))
    learner = Learner(one, Settings(micro_tokens=budget), spend, shifted(one))
    with counter() as reference:
        part = learner.fill(batch(), ["ref_logprobs"])
    with counter() as update:
        part = learner.fill(part, ["old_logprobs"])
        part = replace(part, advantages=algorithm.advantages(part))
        learner.update(part, algorithm)
    assert spent["reference"] == pytest.approx(reference.get_total_flops(), rel=0.02)
    assert spent["update"] == pytest.approx(update.get_total_flops(), rel=0.02)
    assert tokens["reference"] == int(part.length.sum())
