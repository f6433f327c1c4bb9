"""Rewards that shape another one: each number by hand, references kept, lengths taken out."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plays import Digits, asked
from rewarded import Given, Numbers, again, graded, hosted, plays, totals
from upslope.rewards import Grades
from upslope.rewards.centred import Centred
from upslope.rewards.clip import Clip
from upslope.rewards.length import Length
from upslope.rewards.log_sigmoid import LogSigmoid
from upslope.rewards.mix import Mix, Part
from upslope.rewards.par import Par
from upslope.types import Problem, Reward, UserError


class Two(Digits):
    """An env with two problems to train on, "a" and "b"."""

    def problems(self, split: str) -> list[Problem]:  # type: ignore[override]
        return [asked("a"), asked("b")]


def begun(grades: Grades, folder: Path) -> Grades:
    asyncio.run(grades.begin(folder))  # type: ignore[attr-defined]
    return grades


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_par_is_the_mean_chance_to_be_preferred(tmp_path: Path) -> None:
    host = hosted(env=Two(), replies=["0", "2"])
    grades = begun(Par(Numbers(), replies=2).open(host), tmp_path)
    found = again(grades, "1", "2", "-700", problem=asked("a"))
    # Against 0 and 2: sigmoid(1) and sigmoid(-1) add up to 1.
    assert found[0].total == pytest.approx(0.5)
    assert found[1].total == pytest.approx((sigmoid(2) + 0.5) / 2)
    assert found[2].total == pytest.approx(0.0, abs=1e-300)
    assert [r.parts["raw"] for r in found] == [1.0, 2.0, -700.0]
    assert all(r.at == () for r in found)


def test_par_grades_as_it_can_until_its_references_are_there(tmp_path: Path) -> None:
    grades = Par(Numbers()).open(hosted(env=Two(), replies=["5"] * 4))
    assert totals(again(grades, "0")) == [0.5]
    begun(grades, tmp_path)
    assert again(grades, "0", problem=asked("a"))[0].total == pytest.approx(sigmoid(-5))


def test_a_resumed_run_has_the_references_of_its_start(tmp_path: Path) -> None:
    begun(Par(Numbers(), 2).open(hosted(env=Two(), replies=["0", "2"])), tmp_path / "rewards")
    kept = json.loads((tmp_path / "rewards" / "references.json").read_text())
    assert kept == {"a": [0.0, 2.0], "b": [0.0, 2.0]}
    moved = Par(Numbers(), 2).open(hosted(env=Two(), replies=["90", "91"]))
    found = again(begun(moved, tmp_path / "rewards"), "1", problem=asked("a"))
    assert found[0].total == pytest.approx(0.5)


def test_a_problem_without_a_graded_reference_has_no_reward(tmp_path: Path) -> None:
    def none_of_b(text: str) -> Reward:
        return Reward(float(text), valid=text != "9", reason="broken")

    host = hosted(env=Two(), replies=["9"])
    for settings in (Par(Given(none_of_b), 1), LogSigmoid(Given(none_of_b), replies=1)):
        grades = begun(settings.open(host), tmp_path / type(settings).__name__)
        (one,) = again(grades, "1", problem=asked("b"))
        assert (one.valid, one.reason) == (
            False,
            "no reference reply to this problem could be graded",
        )


def test_too_many_problems_for_references_are_refused_before_anything() -> None:
    with pytest.raises(UserError, match=r"2 train problems .* reward\.problems=1"):
        Par(Numbers(), 4, problems=1).open(hosted(env=Two()))
    assert LogSigmoid(Numbers(), problems=1).open(hosted(env=Two()))


def test_log_sigmoid_by_hand(tmp_path: Path) -> None:
    found = graded(LogSigmoid(Numbers(), reference=1.0), "1", "3", "-999", "999")
    assert found[0].total == pytest.approx(-math.log(2))
    assert found[1].total == pytest.approx(math.log(sigmoid(2)))
    assert found[2].total == pytest.approx(-1000.0)
    assert found[3].total == pytest.approx(0.0)
    host = hosted(env=Two(), replies=["0", "1", "2", "3", "4"])
    grades = begun(LogSigmoid(Numbers(), replies=5, quantile=0.75).open(host), tmp_path)
    # Three quarters of 0 .. 4 is 3.
    (one,) = again(grades, "3", problem=asked("a"))
    assert one.total == pytest.approx(-math.log(2))


def test_clip_cuts_and_says_what_it_was() -> None:
    found = graded(Clip(-1.0, 1.0, Numbers()), "0.5", "7", "-7", "x")
    assert totals(found) == [0.5, 1.0, -1.0, 0.0]
    assert [r.parts.get("raw") for r in found] == [None, 7.0, -7.0, None]
    assert not found[3].valid


def test_centring_takes_off_what_was_earned_before() -> None:
    grades = Centred(Numbers(), window=3).open(hosted())
    assert totals(again(grades, "1", "3")) == [1.0, 3.0]
    assert totals(again(grades, "4", "x", "6")) == [2.0, 0.0, 4.0]
    # The last three: 3, 4, 6.
    (one,) = again(grades, "0")
    assert one.total == pytest.approx(-13 / 3)
    assert sum(v for _, _, v in one.at) == 0.0


def by_length(slope: float, noise: float = 0.0) -> Given:
    return Given(lambda text: Reward(slope * (len(text) + 1) + noise * (len(text) % 2)))


def test_a_reward_of_length_alone_is_nothing() -> None:
    replies = ["c" * n for n in (1, 4, 9, 2)]
    found = graded(Length(by_length(0.25), window=1), *replies)
    assert len({round(r.total, 9) for r in found}) == 1
    assert found[0].parts["length_slope"] == pytest.approx(0.25)
    # The mean is kept: of 2, 5, 10 and 3 tokens a quarter each.
    assert found[0].total == pytest.approx(0.25 * 5.0)


def test_what_is_left_has_no_correlation_with_length() -> None:
    replies = ["c" * n for n in (1, 2, 3, 5, 8, 12)]
    plain = graded(by_length(0.1, 0.7), *replies)
    found = graded(Length(by_length(0.1, 0.7), window=1, within="window"), *replies)
    lengths = [t.length for t in plays(*replies)]
    assert abs(np.corrcoef(lengths, [r.total for r in plain])[0, 1]) > 0.3
    assert abs(np.corrcoef(lengths, [r.total for r in found])[0, 1]) < 1e-9


def test_problems_that_need_long_replies_are_not_taken_for_length() -> None:
    # In each group all lengths earn the same; the problem with long replies earns more.
    def earns(text: str) -> Reward:
        return Reward(10.0 if len(text) > 5 else 0.0)

    short, long = ["c", "cc", "ccc"], ["c" * 8, "c" * 9]
    grades = Length(Given(earns)).open(hosted())
    again(grades, *short)
    assert totals(again(grades, *long)) == [10.0, 10.0]
    blind = Length(Given(earns), within="window").open(hosted())
    again(blind, *short)
    # Of 2, 3, 4, 9 and 10 tokens: slope 78 / 53.2, and 9 is 3.4 beyond their mean.
    assert again(blind, *long)[0].total == pytest.approx(10 - 78 / 53.2 * 3.4)


def test_the_line_is_of_the_last_groups_and_equal_lengths_have_none() -> None:
    grades = Length(by_length(1.0), window=2).open(hosted())
    again(grades, "c", "ccc")
    (one,) = again(grades, "cc")
    assert one.parts["length_slope"] == pytest.approx(1.0)
    (two,) = again(grades, "cc")
    assert (two.parts["length_slope"], two.total) == (0.0, 3.0)
    assert again(grades, "x")[0].valid


def test_an_invalid_play_is_in_no_line() -> None:
    replies = ["1", "1.0", "xxxxxxxxxxxx"]
    found = graded(Length(Numbers(), window=1), *replies)
    assert [r.valid for r in found] == [True, True, False]
    assert found[0].parts["length_slope"] == 0.0


def test_shapes_go_around_shapes() -> None:
    inner = Clip(-2.0, 2.0, Numbers())
    (one,) = graded(LogSigmoid(Clip(0.0, 1.0, inner), reference=1.0), "9")
    assert one.total == pytest.approx(-math.log(2))
    mix = Mix({"a": Part(LogSigmoid(Numbers())), "b": Part(LogSigmoid(Numbers(-1.0)))})
    (two,) = graded(mix, "0")
    assert two.total == pytest.approx(-2 * math.log(2))


def test_the_order_of_a_group_changes_nothing() -> None:
    replies = ["c" * n for n in (1, 2, 5)]
    for settings in (Length(by_length(0.1, 0.7), 1), Centred(by_length(1.0)), Par(by_length(1.0))):
        forth = {t: r.total for t, r in zip(replies, graded(settings, *replies), strict=True)}
        back = graded(replace(settings), *reversed(replies))
        assert [r.total for r in back] == pytest.approx([forth[t] for t in reversed(replies)])
