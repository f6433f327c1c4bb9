"""The countdown env: its questions, its solutions and slips, and what its grader takes."""

from __future__ import annotations

from typing import Any

import pytest

from replies import marks, rewards_of
from upslope.batteries import check_env
from upslope.envs.countdown import SHOTS, Countdown, answer_in, question_of
from upslope.rewards.expression import evaluate
from upslope.seeds import split_of
from upslope.types import Demonstrates, Problem, Split, UserError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SMALL = {"train": 200, "test": 40}
NUMBERS = (3, 5, 7)


def posed(env: Countdown) -> Problem:
    """Make 38 of 3, 5 and 7."""
    return env._problem("3 5 7=38", NUMBERS, "3+5*7", "3*5+7")


@pytest.mark.parametrize("form", ["characters", "text", "chat"])
def test_it_passes_the_battery_in_every_form(form: Any) -> None:
    check_env(Countdown(form=form, use="any", train=20, test=10), problems=1)


def test_forms() -> None:
    assert posed(Countdown()).prompt == "3 5 7=38:"
    text = posed(Countdown(form="text"))
    assert text.prompt.splitlines()[0] == "2 3 7=13: 2*3+7"
    assert text.prompt.endswith("\n3 5 7=38:")
    assert (text.stop, text.solution) == (("\n",), " 3+5*7")
    chat = posed(Countdown(form="chat"))
    assert chat.messages[0]["content"].startswith("Use each of the numbers 3, 5, 7 once, with")
    assert chat.solution == "Answer: 3+5*7"


def test_examples_are_right() -> None:
    for given, target, expression in SHOTS:
        seen = evaluate(expression)
        assert seen is not None
        assert (seen.value, tuple(sorted(seen.numbers))) == (target, given)


@pytest.mark.parametrize("numbers", [2, 4])
def test_solutions_are_right_and_slips_are_not(numbers: int) -> None:
    env = Countdown(numbers=numbers, largest=20, target=100, **SMALL)
    for problem in env.problems("train"):
        right, wrong = evaluate(problem.solution), evaluate(problem.info["slip"])
        assert right is not None
        assert wrong is not None
        assert str(right.value) == problem.answer != str(wrong.value)
        assert 1 <= int(problem.answer) <= 100
        assert sorted(right.numbers) == sorted(wrong.numbers) == list(problem.info["numbers"])
        assert problem.id == question_of(problem.info["numbers"], right.value)


def test_splits_are_distinct_and_go_by_the_question() -> None:
    env = Countdown(**SMALL)
    ids = {split: [p.id for p in env.problems(split)] for split in SPLITS}
    assert [len(found) for found in ids.values()] == [200, 40, 40]
    for split, questions in ids.items():
        assert len(set(questions)) == len(questions)
        assert {split_of(question) for question in questions} == {split}
    other = Countdown(seed=1, form="text", **SMALL)
    assert {split_of(p.id) for p in other.problems("test")} == {"test"}
    shown = {question_of(given, target) for given, target, _ in SHOTS}
    every = Countdown(numbers=3, largest=8, target=20, train=4000, test=600)
    assert not shown & {p.id for split in SPLITS for p in every.problems(split)}


def test_few_questions_are_all_there_are() -> None:
    few = Countdown(numbers=2, largest=3, target=9, train=100, test=100)
    assert 5 < sum(len(few.problems(split)) for split in SPLITS) < 40


def test_demonstrations_miss_as_often_as_wanted() -> None:
    assert isinstance(Countdown(), Demonstrates)
    shown = list(Countdown(wrong=0.4, train=1000).demonstrations("train"))
    missed = [p.info["slip"] == reply for p, reply in shown]
    assert all(m or p.solution == r for m, (p, r) in zip(missed, shown, strict=True))
    assert abs(sum(missed) / len(shown) - 0.4) < 0.05


def test_grading() -> None:
    env = Countdown()
    right = ("3+5*7", " 5*7 + 3\n", "3+5*7=38", "(5*7)+3", "5\u00d77+3", "7*5+3 = 38")
    assert marks(env, posed(env), *right) == [(1, 1)] * len(right)
    wrong = ("3*5+7", "38", "5*7+3+0", "3+5*7=37+1", "5*7", "3/(5-5)", "35+3", "5*7+(3*(7-7)+3)")
    seen = marks(env, posed(env), *wrong)
    assert [mark for mark, _ in seen] == [0] * len(wrong)
    assert [form for _, form in seen] == [1, 1, 1, 0, 1, 1, 1, 1]
    odd = ("", "3+5**7", "-3+5", "5//7", "3+five", "3 5 7", "eval('38')", "3+5*7;", "03+5*7")
    assert marks(env, posed(env), *odd) == [(0, 0)] * len(odd)
    long = ("3+5*7" + " " * 300, "(" * 90 + "3+5*7" + ")" * 90, "(" * 5000, "9" * 100_000)
    assert marks(env, posed(env), *long) == [(1, 1), (1, 1), (0, 0), (0, 0)]


def test_every_number_must_be_used_unless_any_may_be() -> None:
    every, any_of = Countdown(), Countdown(use="any")
    problem = every._problem("3 5 7=35", NUMBERS, "5*7", "5+7")
    assert marks(every, problem, "5*7") == [(0, 1)]
    assert marks(any_of, problem, "5*7", "5*7*1", "5*7+3-3") == [(1, 1), (0, 1), (0, 1)]


def test_a_division_is_exact() -> None:
    env = Countdown(numbers=4)
    thirds = env._problem("1 3 4 6=24", (1, 3, 4, 6), "6/(1-3/4)", "1+3+4+6")
    assert marks(env, thirds, "6/(1-3/4)", "6/(1-3/4)=24") == [(1, 1), (1, 1)]
    sevenths = env._problem("3 3 7 7=24", (3, 3, 7, 7), "7*(3+3/7)", "3+3+7+7")
    assert marks(env, sevenths, "7*(3+3/7)") == [(1, 1)]  # 24.000000000000004 in floats


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("First 5*7. Answer: 3+5*7", "3+5*7"),
        ("Answer: 1+1\nNo. The answer is 3+5*7.", "3+5*7"),
        ("I take\n3+5*7", "3+5*7"),
        ("**Answer:** `3+5*7`", "3+5*7"),
        ("Answer:", ""),
        ("", ""),
    ],
)
def test_where_a_chat_reply_has_its_answer(reply: str, said: str) -> None:
    assert answer_in(reply) == said


def test_the_vote_counts_expressions() -> None:
    env = Countdown(form="chat")
    seen = rewards_of(env, posed(env), "Answer: 3+5*7", "Answer: none")
    assert [r.answer for r in seen] == ["3+5*7", ""]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"numbers": 1}, "from 2 to 6, got 1"),
        ({"largest": 1}, "largest is from 2 to 999"),
        ({"target": 10_000}, "target from 2 to 9999"),
        ({"wrong": 2.0}, "wrong is a share"),
        ({"test": 0}, "set each to at least 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Countdown(**settings)
