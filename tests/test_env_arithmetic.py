"""The arithmetic env: its questions in each form, its splits, its slips and its grading."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from upslope.envs.arithmetic import SHOTS, Arithmetic
from upslope.seeds import split_of
from upslope.types import Demonstrates, Env, Problem, Split, Trajectory

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def every(env: Arithmetic) -> dict[str, Problem]:
    """All problems by question."""
    return {p.id: p for split in SPLITS for p in env.problems(split)}


def graded(env: Arithmetic, problem: Problem, *replies: str) -> list[tuple[float, float]]:
    """(total, format) of each reply."""
    group = [
        Trajectory(problem, 0, i, (), (), ({"role": "assistant", "content": reply},))
        for i, reply in enumerate(replies)
    ]
    rewards = asyncio.run(env.rewards(problem, group))
    assert all(r.valid and r.correct == r.total for r in rewards)
    return [(r.total, r.parts["format"]) for r in rewards]


def test_it_is_an_env_that_demonstrates() -> None:
    assert isinstance(Arithmetic(), Env)
    assert isinstance(Arithmetic(), Demonstrates)


def test_forms() -> None:
    sums = every(Arithmetic())
    assert sums["47+38="].prompt == "47+38="
    assert sums["47+38="].stop == ()
    text = every(Arithmetic(form="text"))["47+38="]
    assert text.prompt == "12+35=47\n41+27=68\n53+14=67\n47+38="
    assert text.stop == ("\n",)
    chat = every(Arithmetic(form="chat"))["47+38="]
    assert chat.messages == ({"role": "user", "content": "47+38=? Answer with the number only."},)
    assert {p.answer for p in (sums["47+38="], text, chat)} == {"85"}


def test_answers() -> None:
    mixed = every(Arithmetic(("add", "subtract", "multiply"), train=30000, test=4000))
    assert len(mixed) == 3 * 100**2
    found = {question: mixed[question].solution for question in ("9+1=", "3-12=", "12*12=", "0-0=")}
    assert found == {"9+1=": "10", "3-12=": "-9", "12*12=": "144", "0-0=": "0"}
    backwards = every(Arithmetic(reverse=True))
    assert (backwards["9+1="].answer, backwards["9+1="].solution) == ("10", "01")


def test_splits_are_disjoint_stable_and_hold_every_question_once() -> None:
    ids = {split: [p.id for p in Arithmetic().problems(split)] for split in SPLITS}
    for split, questions in ids.items():
        assert {split_of(question) for question in questions} == {split}
        assert questions == [p.id for p in Arithmetic().problems(split)]
    assert [len(set(questions)) for questions in ids.values()] == [len(q) for q in ids.values()]
    assert [len(ids[split]) for split in SPLITS] == [7958, 790, 1000]
    assert len(every(Arithmetic(digits=1))) == 100
    other = [p.id for p in Arithmetic(seed=1).problems("test")]
    assert other[:20] != ids["test"][:20]


def test_fewer_problems_are_the_first_ones_and_many_digits_have_enough() -> None:
    few = Arithmetic(train=5, test=7)
    for split, count in (("train", 5), ("validation", 7), ("test", 7)):
        assert list(few.problems(split)) == list(Arithmetic().problems(split))[:count]
    large = Arithmetic(digits=6, train=50, test=900)
    assert [len(large.problems(split)) for split in SPLITS] == [50, 900, 900]
    assert max(len(p.answer) for p in large.problems("test")) == 7


def test_no_question_is_among_the_examples_before_it() -> None:
    shown = {f"{a}+{b}=" for a, b in SHOTS}
    assert not shown & set(every(Arithmetic(form="text", test=5000)))
    assert shown & set(every(Arithmetic(test=5000)))


@pytest.mark.parametrize(
    ("question", "slip"),
    [("27+35=", "52"), ("12+35=", "47"), ("99+1=", "90"), ("9+95=", "94"), ("55+55=", "0")],
)
def test_a_slip_in_a_sum_forgets_the_carries(question: str, slip: str) -> None:
    assert every(Arithmetic(test=5000))[question].info["slip"] == slip


def test_other_slips_are_off_by_one() -> None:
    env = Arithmetic(("subtract", "multiply"), digits=1, reverse=True)
    found = every(env)
    assert found["7*8="].info == {"slip": "75", "operation": "multiply"}
    assert found["3-3="].info == {"slip": "1", "operation": "subtract"}


def test_demonstrations_are_right_but_for_the_share_that_slips() -> None:
    assert all(p.solution == reply for p, reply in Arithmetic().demonstrations("train"))
    assert all(
        reply == p.info["slip"] for p, reply in Arithmetic(wrong=1.0).demonstrations("train")
    )
    shown = list(Arithmetic(("multiply",), wrong=0.3).demonstrations("train"))
    share = sum(p.solution != reply for p, reply in shown) / len(shown)
    assert abs(share - 0.3) < 0.02
    assert shown == list(Arithmetic(("multiply",), wrong=0.3).demonstrations("train"))


def test_grading() -> None:
    env = Arithmetic(reverse=True)
    problem = every(env)["47+38="]
    replies = ("58", " 58\n", "85", "058", "five", "", "58 58", "\u0665\u0668")
    assert graded(env, problem, *replies) == [
        *((1.0, 1.0), (1.0, 1.0), (0.0, 1.0), (0.0, 1.0)),
        *((0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
        (0.0, 1.0),  # digits of another script are digits, and another answer
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"operations": ()}, "at least one of add, subtract, multiply"),
        ({"digits": 0}, "digits must be from 1 to 9, got 0"),
        ({"digits": 10}, "digits must be from 1 to 9, got 10"),
        ({"wrong": -0.1}, "wrong is a share between 0 and 1"),
        ({"wrong": 1.1}, "wrong is a share between 0 and 1"),
        ({"train": 0}, "set each to at least 1"),
        ({"test": -1}, "set each to at least 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Arithmetic(**settings)
