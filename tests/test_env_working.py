"""Additions with their working: what is right, how long it is, and what demonstrations are."""

from __future__ import annotations

import random

import pytest

from replies import rewards_of
from upslope.batteries import check_env
from upslope.envs.working import Working, holds, working
from upslope.types import Problem, UserError

ASKED = Problem("57+28=", prompt="57+28=", answer="85", info={"numbers": (57, 28)})


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("85", 1.0),
        ("67+18=85", 1.0),
        ("67+18=77+8=85", 1.0),
        ("85+0=85", 1.0),
        ("86", 0.0),
        ("67+18=86", 0.0),
        ("67+19=85", 0.0),
        ("57+28=85", 0.0),  # nothing moved
        ("67+18=57+28=85", 0.0),  # moved back
        ("67+18=67+18=85", 0.0),
        ("67+18=85=", 0.0),
        ("67+18", 0.0),
        ("", 0.0),
        ("=85", 0.0),
        (" 85", 0.0),
        ("\u0668\u0665", 0.0),  # digits, but not these
        ("1" * 5000 + "=85", 0.0),
    ],
)
def test_every_step_must_be_true(reply: str, right: float) -> None:
    (seen,) = rewards_of(Working(), ASKED, reply)
    assert (seen.total, seen.correct, seen.valid) == (right, right, True)
    assert seen.costs == {"steps": float(reply.count("="))}


def test_a_length_is_aimed_at() -> None:
    env = Working(target=13, within=1)
    hit, short, wrong = rewards_of(env, ASKED, "67+18=77+8=85", "67+18=85", "67+18=77+8=86")
    assert [(r.total, r.correct, r.parts["aimed"]) for r in (hit, short, wrong)] == [
        (1.0, 1.0, 1.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0),
    ]


@pytest.mark.parametrize("target", [0, 8, 20, 26])
def test_demonstrations_are_right_and_as_long_as_wanted(target: int) -> None:
    env = Working(target=target, train=300, wrong=0.25)
    shown = list(env.demonstrations("train"))
    lengths = {len(reply) for _, reply in shown}
    assert len(shown) == 300
    if target:
        assert target - 2 <= min(lengths) <= max(lengths) <= target + 2
    else:
        assert len(lengths) > 8
    slips = [reply for problem, reply in shown if reply != problem.solution]
    assert 50 < len(slips) < 100
    assert all(rewards_of(env, p, p.solution, str(p.info["slip"]))[0].total == 1 for p, _ in shown)
    assert all(rewards_of(env, p, str(p.info["slip"]))[0].correct == 0 for p, _ in shown)


def test_a_working_is_as_long_as_there_is_something_to_move() -> None:
    draw = random.Random(0)
    assert working(draw, 9, 2, 5) == "10+1=11+0=11"
    assert working(draw, 57, 28, 0) == "85"
    for _ in range(100):
        *steps, answer = working(draw, 57, 28, 4).split("=")
        assert (len(steps), answer, holds(steps, 57, 28)) == (4, "85", True)


@pytest.mark.parametrize("settings", [{}, {"target": 20}, {"digits": 3, "train": 50}])
def test_the_battery_passes(settings: dict[str, int]) -> None:
    assert check_env(Working(**{"test": 20, **settings}))


@pytest.mark.parametrize(
    "settings", [{"digits": 0}, {"wrong": 2.0}, {"steps": -1}, {"train": 0}, {"target": -1}]
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Working(**settings)  # type: ignore[arg-type]
