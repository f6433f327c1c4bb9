"""Mathematical answers: which part of a reply is the answer, and what it equals."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest

from upslope.rewards.math_answer import (
    Form,
    canonical,
    extract,
    fault,
    math_answers,
    number,
    simply_equal,
)
from upslope.types import Reward


def graded(gold: str, *replies: str, form: Form = "math") -> list[Reward]:
    return asyncio.run(math_answers(replies, gold, form))


MATH: dict[str, tuple[str, bool]] = {
    "So $x = \\boxed{\\frac{1}{2}}$.": ("\\frac{1}{2}", True),
    "\\boxed{1} and, no, \\boxed{2}": ("2", True),
    "\\boxed{\\text{a } \\boxed{3}}": ("3", True),
    "\\fbox{7} but #### 8": ("7", True),
    "\\boxed{ 4 }": ("4", True),
    "\\boxed{4 is not closed": ("", False),
    "\\boxed{": ("", False),
    "\\boxed{}": ("", True),
    "It follows.\n#### 12\nDone.": ("12", True),
    "The answer is $\\frac{3}{4}$, as said.": ("\\frac{3}{4}", True),
    "The Answer is: \\(x+1\\).": ("x+1", True),
    "the answer is 3.5. Good.": ("3.5", True),
    "the answer is 1\nThe answer is **2**": ("2", True),
    "the answer is": ("", False),
    "7": ("", False),
    "": ("", False),
    "\u0130" * 50 + " the answer is 5": ("5", True),
}
GSM: dict[str, tuple[str, bool]] = {
    "16 - 3 - 4 = 9\n#### 18": ("18", True),
    "#### $1,080 dollars": ("1,080", True),
    "The answer is 3 + 4 = 7 eggs.": ("7", True),
    "The answer is 18 dollars for 2 days.": ("18", True),
    "\\boxed{18}": ("18", True),
    "She makes 18 dollars.": ("18", False),
    "I get 10-3": ("", False),  # a formula that nobody has worked out
    "I get 10 - 3 = 7": ("7", False),
    "4 or 5": ("", False),  # two answers are none
    "The answer is 4, or 5": ("", False),
    "The answer is 46*2": ("", False),
    "It is \u22126.": ("-6", False),
    "It is -3.": ("-3", False),
    "5, so .5": (".5", False),
    "The answer is none, after 12 tries": ("12", True),
    "#### ?\n6": ("6", False),
    "nothing": ("", False),
    "\u0661\u0662": ("", False),
}


@pytest.mark.parametrize("reply", MATH)
def test_what_a_reply_answers(reply: str) -> None:
    seen = extract(reply, "math")
    assert (seen.text, seen.marked) == MATH[reply]


@pytest.mark.parametrize("reply", GSM)
def test_what_a_reply_answers_to_a_question_for_a_number(reply: str) -> None:
    seen = extract(reply, "gsm8k")
    assert (seen.text, seen.marked) == GSM[reply]


def test_long_replies_are_read_and_long_answers_are_none() -> None:
    assert extract("x" * 100_000 + "\\boxed{5}" + "y" * 100_000, "math").text == "5"
    assert extract("5\n" * 500_000, "gsm8k").text == "5"
    for reply in ("\\boxed{" + "1+" * 1000 + "1}", "#### " + "9" * 1000):
        assert extract(reply, "math").text == ""
    nested = "\\boxed{" * 20_000 + "1" + "}" * 20_000
    assert extract(nested, "math").text == "1"
    assert extract("\\boxed{" * 100_000, "math").text == ""


NUMBERS = {
    "18": Fraction(18),
    "-1,234.50": Fraction(-2469, 2),
    "\\$32,\\!348": Fraction(32348),
    "$ 18.": Fraction(18),
    ".5": Fraction(1, 2),
    "+7": Fraction(7),
    "12,34": None,
    "1 2": None,
    "": None,
    ".": None,
    "-": None,
    "1e3": None,
    "\u0664\u0662": None,
    "\u00b2": None,
    "0x10": None,
    "1/2": None,
}


@pytest.mark.parametrize("text", NUMBERS)
def test_plain_numbers(text: str) -> None:
    assert number(text) == NUMBERS[text]


EQUAL: list[tuple[str, str, bool | None]] = [
    ("18", "18.0", True),
    ("18", "81", False),
    ("\\frac{1}{2}", "\\dfrac{1}{2}", True),
    ("11,\\! 111", "11,111", True),
    ("\\left(3, 4\\right]", "(3,4]", True),
    ("\\text{Evelyn}", "evelyn", True),
    ("\\text{(C)}", "C", True),
    ("\\text{(C)}", "(B)", False),
    ("\\text{east}", "\\text{seat}", False),
    ("even", "Even.", True),
    ("12", "1 2", None),
    ("\\frac{1}{2}", "0.5", None),
    ("xy", "yx", None),
    ("p - q", "-q + p", None),
    ("18", "", False),
]


@pytest.mark.parametrize(("gold", "answer", "equal"), EQUAL)
def test_what_needs_no_algebra(gold: str, answer: str, equal: bool | None) -> None:
    assert simply_equal(gold, answer) is equal


ALGEBRA = {
    "\\frac{1}{2}": (["0.5", "1/2", "\\frac12", "\\frac{2}{4}"], ["2", "0.51", "\\frac{1}{3}"]),
    "6 - 5i": (["-5i+6"], ["6+5i"]),
    "(3,4]": (["(3, 4]"], ["(3,4)", "[3,4]"]),
    "1,-2": (["-2, 1", "\\{1,-2\\}"], ["1,2", "1", "1,-2,3"]),
    "x=5": (["5"], ["-5"]),
    "3\\sqrt{13}": (["\\sqrt{117}"], ["10.8166"]),
    "(a+5)(b+2)": (["ab+2a+5b+10"], ["ab+10"]),
    "42": (["84/2"], ["41, 42", "42 \\text{ or } 43", "\\{41,42\\}", "x", "\\ud800", "\ud800"]),
}


@pytest.mark.parametrize("gold", ALGEBRA)
def test_what_does(gold: str) -> None:
    right, wrong = ALGEBRA[gold]
    rewards = graded(gold, *(f"\\boxed{{{answer}}}" for answer in (*right, *wrong)))
    assert all(reward.valid for reward in rewards)
    assert [r.correct for r in rewards] == [1.0] * len(right) + [0.0] * len(wrong)


def test_a_hanging_comparison_is_invalid_and_its_group_is_graded() -> None:
    tower = "\\boxed{10^{10^{10}}}"
    rewards = graded("\\frac{1}{2}", "\\boxed{.5}", tower, "no idea", "\\boxed{1/2}", tower)
    assert [reward.valid for reward in rewards] == [True, False, True, True, False]
    assert rewards[1].reason == "grading took more than 2 CPU-seconds"
    assert [r.correct for r in rewards if r.valid] == [1.0, 0.0, 1.0]
    assert [r.parts.get("format") for r in rewards] == [1, None, 0, 1, None]


def test_huge_powers_of_small_numbers_do_not_hang() -> None:
    (reward,) = graded("5", "\\boxed{9**9**9**9}")
    assert reward.correct == 0.0


FAULTS = {
    ("", "math"): "is empty",
    ("  ", "gsm8k"): "is empty",
    ("twelve", "gsm8k"): "'twelve' is no number",
    ("12 eggs", "gsm8k"): "'12 eggs' is no number",
    ("?!", "math"): "'?!' has neither a letter nor a digit",
    ("\\frac{1}{2", "math"): "has unequal braces",
    ("1" * 500, "math"): "has 500 characters",
}


@pytest.mark.parametrize(("gold", "form"), FAULTS)
def test_a_gold_answer_nothing_can_equal_is_invalid_and_neither_right_nor_wrong(
    gold: str, form: Form
) -> None:
    assert FAULTS[gold, form] in fault(gold, form)
    rewards = graded(gold, "\\boxed{1}", gold, form=form)
    assert [reward.valid for reward in rewards] == [False, False]
    assert rewards[0].reason.startswith("the gold answer ")


def test_votes_for_equal_numbers_count_together() -> None:
    assert canonical("1,080") == canonical("1080.0") == canonical("\\$1080") == "1080"
    assert canonical("\\text{East}") == canonical("east")
    rewards = graded("18", "#### 18", "\\boxed{18.00}", "maybe 19", form="gsm8k")
    assert [reward.answer for reward in rewards] == ["18", "18", "19"]
    assert [reward.correct for reward in rewards] == [1, 1, 0]
