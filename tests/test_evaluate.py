"""Accuracy and its interval: hand-computed, clustered by problem, right as often as it says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from plays import Dialogue, Digits, asked, group_of, player
from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.evaluate import Both, evaluate, interval, summary
from upslope.models.load import load
from upslope.rollout import Player
from upslope.types import Problem, Reward, Trajectory, UserError


def of(*values: float) -> tuple[float, float, float]:
    return interval(np.array(values))


def test_interval_by_hand() -> None:
    # 7 of 10, whose sample variance is worth 9 trials: (0.7 + z2/18) / (1 + z2/9), z2 = 3.8415
    assert of(*[1.0] * 7, *[0.0] * 3) == pytest.approx((0.7, 0.382489, 0.897853), abs=1e-6)
    # one problem: Wilson's interval of 1 of 1 is [1 / (1 + z2), 1]
    assert of(1.0) == pytest.approx((1.0, 0.206549, 1.0), abs=1e-6)
    # all of 10 and none of 10: z2 / (10 + z2)
    assert of(*[1.0] * 10) == pytest.approx((1.0, 0.722467, 1.0), abs=1e-6)
    assert of(*[0.0] * 10) == pytest.approx((0.0, 0.0, 0.277533), abs=1e-6)


def test_samples_that_agree_narrow_nothing_and_samples_that_do_not_do() -> None:
    ones, mixed = [Reward(1.0)], [Reward(1.0), Reward(0.0), Reward(1.0), Reward(0.0)]
    once = summary([group_of(r) for r in ([Reward(0.0)], ones) * 5], 1.0)
    often = summary([group_of(r * 8) for r in ([Reward(0.0)], ones) * 5], 1.0)
    assert (often.low, often.high, often.mean) == (once.low, once.high, 0.5)
    assert (often.samples, often.problems) == (8, 10)
    shared = [[Reward(0.0)] * 3 + ones, [Reward(0.0)] + ones * 3, mixed]
    varied = summary([group_of(r) for r in shared * 4], 1.0)
    assert varied.mean == 0.5
    assert varied.high - varied.low < 0.6 * (once.high - once.low)


@pytest.mark.parametrize(("a", "b"), [(2.0, 1.0), (0.3, 0.5)])
def test_the_interval_holds_the_truth_as_often_as_it_says(a: float, b: float) -> None:
    """Problems of all difficulties (Beta), 4 samples of each of 60: clustered answers."""
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        answers = draw.random((60, 4)) < draw.beta(a, b, size=(60, 1))
        _, low, high = interval(answers.mean(1))
        hits += low <= a / (a + b) <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_rewards_that_are_no_accuracy_have_an_interval_around_their_mean() -> None:
    # mean 1, variance of the mean (4 + 0 + 4) / 2 / 3
    assert of(-1.0, 1.0, 3.0) == pytest.approx((1.0, 1 - 1.96 * 3**-0.5 * 2, 3.2632), abs=1e-3)


def test_what_could_not_be_graded_is_left_out() -> None:
    down = Reward(float("nan"), valid=False, reason="the judge is down")
    half = summary([group_of([Reward(1.0), down]), group_of([down, down])], 1.0)
    assert (half.mean, half.problems, half.invalid, half.reward) == (1.0, 1, 3, 1.0)
    with pytest.raises(UserError, match=r"no trajectory could be graded .* the judge is down"):
        summary([group_of([down])], 1.0)


def test_accuracy_is_the_part_called_correct() -> None:
    parts = [Reward(2.5, {"correct": 1.0}), Reward(0.5, {"correct": 0.0})]
    seen = summary([group_of(parts)], 1.0)
    assert (seen.mean, seen.reward) == (0.5, 1.5)


def test_sampled_and_greedy() -> None:
    # two samples of each problem at temperature 1, then one greedy
    who, engine = player(Dialogue(), ["yes", "no", "no", "yes", "yes", "yes"])
    both = asyncio.run(evaluate(who, [asked("a"), asked("b")], 2, seed=0))
    assert [s.temperature for _, s in engine.seen] == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    assert (both.sampled.mean, both.greedy.mean) == (0.75, 0.5)
    assert (both.sampled.samples, both.greedy.samples) == (2, 1)
    assert both.sampled.low < 0.75 < both.sampled.high
    assert both.usage.decoded == sum(t.length for g in both.groups for t in g.trajectories)


def test_no_problems_is_refused() -> None:
    who, _ = player(Dialogue(), [])
    with pytest.raises(UserError, match="no problems in the evaluation's split"):
        asyncio.run(evaluate(who, [], 1, seed=0))


def test_the_same_seed_meets_the_same_luck() -> None:
    policy = load("ladder:0.1m")
    env, chat = Digits(), Chat(policy.tokenizer, policy.eos)
    problems = [*env.problems("test"), *env.problems("train")]

    def texts(seed: int, given: Sequence[Problem] = problems, temperature: float = 1) -> list[str]:
        # training rollouts have a temperature of their own, evaluations have not
        who = Player(LocalEngine(policy), env, chat, 6, temperature)
        both: Both = asyncio.run(evaluate(who, given, 2, seed))
        plays: list[Trajectory] = [t for g in both.groups for t in g.trajectories]
        return [t.text for t in plays]

    assert texts(0) == texts(0, temperature=0.3)
    assert texts(0)[:3] == texts(0, problems[:1])
    other = texts(1)
    assert other != texts(0)
    assert other[2::3] == texts(0)[2::3]  # greedy answers know no luck


def test_a_failing_evaluation_leaves_no_play_open() -> None:
    env = Dialogue()
    who, _ = player(env, ["yes"] * 2)  # and then the script runs out
    with pytest.raises(UserError, match="scripted replies ran out"):
        asyncio.run(evaluate(replace(who), [asked("a"), asked("b")], 1, seed=0))
    assert env.open == 0
