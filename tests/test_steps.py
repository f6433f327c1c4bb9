"""How long steps are and which are taken: schedules, and gradients far above the usual."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from learners import a_learner, policy, prepared
from records import group
from upslope.algorithms.grpo import GRPO
from upslope.batch import Batch
from upslope.learner import Learner
from upslope.measures import changes
from upslope.recipe import read
from upslope.settings import Learner as Settings
from upslope.steps import FEWEST, USUAL, Spikes, learning_rate
from upslope.types import UserError

RECIPE: dict[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic"},
    "algorithm": {"type": "grpo"},
}


def rates(total: int, **settings: Any) -> list[float]:
    """The learning rate of every update, where ``lr`` is 1."""
    given = Settings(lr=1.0, **settings)
    return [learning_rate(given, done, total) for done in range(total)]


def batch() -> Batch:
    return Batch.of([group([1.0, 0.0, 0.5]), group([0.0, 1.0], [[5, 6], [7]], id="b")])


def test_schedules_by_hand() -> None:
    assert rates(4) == [1, 1, 1, 1]
    assert rates(4, schedule="linear", floor=0.2) == pytest.approx([1, 0.8, 0.6, 0.4])
    half = math.cos(math.pi / 4) / 2
    want = [1, 0.5 + half, 0.5, 0.5 - half]
    assert rates(4, schedule="cosine", floor=1e-9) == pytest.approx(want)
    assert rates(6, schedule="linear", floor=0.2, warmup=2) == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.8, 0.6, 0.4]
    )
    for kind in ("linear", "cosine"):
        fallen = rates(50, schedule=kind, warmup=5)
        assert fallen[5:] == sorted(fallen[5:], reverse=True)
        assert 0.1 < fallen[-1] < 0.15
        assert learning_rate(Settings(lr=1.0, schedule=kind), 60, 50) == pytest.approx(0.1)


def test_the_learner_follows_its_schedule_also_from_a_checkpoint() -> None:
    settings = Settings(lr=0.4, schedule="linear", floor=0.2, micro_tokens=10_000)

    def made() -> Learner:
        return Learner(policy(), settings, lambda *spent: None, total=4)

    straight, resumed = made(), made()
    part = prepared(straight, GRPO(), batch())
    seen = [straight.update(part, GRPO())["update/lr"] for _ in range(4)]
    assert seen == pytest.approx([0.4, 0.32, 0.24, 0.16])
    assert straight.optimiser.param_groups[0]["lr"] == seen[-1]
    for _ in range(2):
        resumed.update(part, GRPO())
    again = Learner(resumed.policy, settings, lambda *spent: None, total=4)
    again.load_state(copy.deepcopy(resumed.state()))
    assert [again.update(part, GRPO())["update/lr"] for _ in range(2)] == seen[2:]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["stop.steps=0", "stop.hours=1.0"],
            'learner.schedule="cosine" falls towards an end that is not known: set stop.steps',
        ),
        (["learner.warmup=20", "stop.steps=10"], "learner.warmup=20 leaves none of the 10 updates"),
        (["learner.floor=0.0"], "learner.floor must be a number above 0"),
    ],
)
def test_a_schedule_without_an_end_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        read(RECIPE, ['learner.schedule="cosine"', *overrides])
    assert str(refused.value).startswith(said)
    if "floor" not in said:
        read(RECIPE, overrides)


def test_updates_of_a_stage() -> None:
    (stage,) = read(RECIPE, ["stop.steps=5", "learner.updates=4", "learner.epochs=3"]).stages()
    assert stage.updates == 60


def test_a_spike_is_far_above_the_median_of_the_last_norms() -> None:
    spikes = Spikes(3.0)
    assert not any(spikes.seen(norm) for norm in [1.0, 9.0] * (FEWEST // 2))  # too few to say
    assert [spikes.seen(n) for n in (14.9, 15.1, 1.0)] == [False, False, False]
    spikes = Spikes(3.0, [1.0] * FEWEST)
    assert [spikes.seen(n) for n in (2.9, 3.1, 3.1, 1.0, 0.0)] == [False, True, True, False, False]
    assert 0.0 not in spikes.norms
    assert Spikes(0.0, [1.0] * FEWEST).seen(1e9) is False


def test_larger_gradients_for_good_become_usual() -> None:
    spikes = Spikes(3.0, [1.0] * USUAL)
    seen = [spikes.seen(10.0) for _ in range(USUAL)]
    assert seen == [True] * (USUAL // 2) + [False] * (USUAL // 2)


def test_an_update_with_a_spike_is_skipped_and_counted() -> None:
    learner, calm = a_learner(spike=4.0, clip=1.0), a_learner(clip=1.0)
    part = prepared(learner, GRPO(), batch())
    loud = replace(part, advantages=100 * part.advantages)
    for _ in range(FEWEST):
        metrics = learner.update(part, GRPO())
        assert metrics["update/spikes"] == 0
        assert changes(metrics)
        calm.update(part, GRPO())
    weights = [p.clone() for p in learner.policy.model.parameters()]
    spike = learner.update(loud, GRPO())
    assert (spike["update/spikes"], spike["update/skipped"]) == (1, 0)
    assert spike["update/grad_norm"] > 4 * metrics["update/grad_norm"]
    assert not changes(spike)
    assert learner.done == FEWEST
    after = learner.policy.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    again = a_learner(copy.deepcopy(learner.policy), spike=4.0, clip=1.0)
    again.load_state(copy.deepcopy(learner.state()))
    assert again.update(loud, GRPO())["update/spikes"] == 1  # it still knows what is usual
    # Afterwards everything is as if the spike had never been.
    for one in (learner, calm):
        one.update(part, GRPO())
    pairs = zip(learner.policy.tensors(), calm.policy.tensors(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_a_gradient_that_is_not_finite_is_no_spike() -> None:
    learner = a_learner(spike=4.0)
    part = prepared(learner, GRPO(), batch())
    for _ in range(FEWEST):
        learner.update(part, GRPO())
    bad = replace(part, advantages=part.advantages * torch.nan)
    metrics = learner.update(bad, GRPO())
    assert (metrics["update/spikes"], metrics["update/skipped"]) == (0, 1)
    assert len(learner.spikes.norms) == FEWEST
