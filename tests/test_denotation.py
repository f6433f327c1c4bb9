"""When answers are the same: WikiTableQuestions' rules, a tolerance, lists, cells."""

from __future__ import annotations

import pytest

from upslope.rewards.cells import overlap
from upslope.rewards.denotation import agrees, checked, item, joined, normal, split
from upslope.types import UserError


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("São Paulo", "sao paulo"),
        ("“Quoted”", "quoted"),
        ('"Quoted"', "quoted"),
        ("it’s", "it's"),
        ("1990–91", "1990-91"),
        ("Smith[1]", "smith"),
        ("Smith[note 2]†", "smith"),
        ("[5]", ""),
        ("Rome (Italy)", "rome"),
        ("Rome (Italy) (old)", "rome"),
        ("(all)", "(all)"),
        ("Ltd.", "ltd"),
        ("a  \n b", "a b"),
        ("5*", "5"),
    ],
)
def test_texts_are_made_normal(text: str, plain: str) -> None:
    assert normal(text) == plain


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("rome", ["Rome"], True),
        ("Rome, Italy", ["Rome"], False),
        ("4.0", ["4"], True),
        ("4.0000001", ["4"], True),
        ("4.001", ["4"], False),
        ("7169", ["7,169"], True),
        ("7,169", ["7,169"], True),
        ("71,69", ["7169"], False),
        ("1e2", ["100"], True),
        ("a | b", ["b", "a"], True),
        ("b", ["b", "a"], False),
        ("a|b|c", ["b", "a"], False),
        ("a | a", ["a"], True),
        ("2004-03-xx", ["2004-03-xx"], True),
        ("2004-3-xx", ["2004-03-xx"], True),
        ("2004-03-01", ["2004-03-xx"], False),
        ("2004-xx-xx", ["2004"], True),
        ("2004-13-01", ["2004-12-01"], False),
        ("March 2004", ["2004-03-xx"], False),
        ("nan", ["0"], False),
        ("inf", ["1e999"], False),
        ("", ["a"], False),
        ("x" * 5000, ["x"], False),
        ("4", ["four"], False),
        ("x \\p y", ["x | y"], True),
    ],
)
def test_answers_agree_as_the_data_set_has_it(answer: str, gold: list[str], right: bool) -> None:
    assert agrees(answer, gold) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [("1000", True), ("1001", True), ("999", True), ("1001.1", False), ("998.9", False),
     ("1,000", True), ("-1000", False)],
)  # fmt: skip
def test_numbers_to_a_thousandth(answer: str, right: bool) -> None:
    assert agrees(answer, ["1000"], 1e-3) is right


def test_small_whole_numbers_stay_apart() -> None:
    assert not agrees("0.001", ["0"], 1e-3)
    assert not agrees("3", ["4"], 1e-3)


def test_values_survive_being_joined() -> None:
    values = ["a|b", "1,000", "c"]
    assert split(joined(values)) == values


def test_a_date_without_month_and_day_is_its_year() -> None:
    assert item("1990-xx-xx").number == 1990
    assert item("xx-xx-xx").number is None
    assert item("xx-03-05").day == (-1, 3, 5)


def test_gold_answers_that_say_nothing_are_refused() -> None:
    checked(["a"], "row 1")
    for gold in ([], [""], ["[5]"]):
        with pytest.raises(UserError, match="row 1"):
            checked(gold, "row 1")


def test_cells_overlap() -> None:
    assert overlap({"a", "b"}, {"b", "c", "d"}) == (0.4, pytest.approx(1 / 3))
    assert overlap({"a"}, {"a"}) == (1.0, 1.0)
    assert overlap({"a"}, {"b"}) == (0.0, 0.0)
    assert (overlap(set(), set()), overlap({"a"}, set())) == ((1.0, 1.0), (0.0, 0.0))
