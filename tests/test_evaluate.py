"""Held-out problems played and summed up: accuracy, pass@k and paired tests over groups."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from plays import Dialogue, Digits, asked, group_of, player
from upslope.chat import Chat
from upslope.engines.local import LocalEngine
from upslope.evaluate import Both, at, difference, evaluate, play, summary
from upslope.models.load import load
from upslope.rollout import Player
from upslope.types import Problem, Reward, Trajectory, UserError


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


def test_greedy_alone() -> None:
    who, engine = player(Dialogue(), ["yes", "no"])
    sampled, greedy = asyncio.run(play(who, [asked("a"), asked("b")], 0, seed=0))
    assert [s.temperature for _, s in engine.seen] == [0.0, 0.0]
    assert (sampled, summary(greedy, 0.0).mean) == ([], 0.5)


def said(*answers: str) -> list[Reward]:
    """Rewards of replies, of which "7" is right and "?" could not be graded."""
    return [
        Reward(float(a == "7"), valid=a != "?", reason="" if a != "?" else "down", answer=a)
        for a in answers
    ]


def test_at_k_over_the_problems_with_k_graded_answers() -> None:
    groups = [group_of(said("7", "7", "5", "6")), group_of(said("7", "5", "?", "5"))]
    seen = at(3, groups)
    # 3 of 4 (one choice in four lacks a 7 or has two): by hand in test_estimates; 7, 5, 5 loses
    assert seen["pass"].mean == 1
    assert seen["worst"].mean == 0
    assert seen["majority"].mean == pytest.approx(((1 + 1 + 2 / 3) / 4 + 0) / 2)
    assert at(4, groups)["pass"].mean == 1  # the first problem alone
    assert at(5, groups) == {}
    mute = [group_of([Reward(1.0), Reward(0.0)])]
    assert set(at(2, mute)) == {"pass", "worst"}


def test_an_evaluation_says_pass_at_its_samples() -> None:
    who, _ = player(Dialogue(), ["yes", "no", "no"])
    both = asyncio.run(evaluate(who, [asked("a")], 2, seed=0))
    assert {name: seen.mean for name, seen in both.at_k.items()} == {"pass": 1, "worst": 0}
    who, _ = player(Dialogue(), ["yes", "no"])
    assert asyncio.run(evaluate(who, [asked("a")], 1, seed=0)).at_k == {}


def test_the_paired_difference_of_two_evaluations() -> None:
    before = [group_of(said(*answers), name) for name, answers in zip("abcd", FIRST, strict=True)]
    after = [group_of(said(*answers), name) for name, answers in zip("abcd", LAST, strict=True)]
    seen = difference(before, after)
    # b cannot be graded before; .5, 0 and .5 better, one half of an answer each: step 1 / 2
    assert (seen.problems, seen.mean) == (3, pytest.approx(1 / 3))
    centre = 1 / 4
    assert (seen.low + seen.high) / 2 == pytest.approx(centre)
    turned = difference(after, before)
    assert (turned.mean, turned.p) == (-seen.mean, seen.p)


FIRST = (("7", "5"), ("?", "?"), ("7", "7"), ("5", "5"))
LAST = (("7", "7"), ("7", "7"), ("7", "?"), ("5", "7"))


def test_other_problems_are_not_compared() -> None:
    one, two = [group_of(said("7"), "a")], [group_of(said("7"), "b")]
    with pytest.raises(UserError, match=r"the evaluations differ in problem 'a': compare two"):
        difference(one, two)
    with pytest.raises(UserError, match="have 1 and 2 problems"):
        difference(one, one * 2)


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
