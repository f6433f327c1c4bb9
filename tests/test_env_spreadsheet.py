"""The spreadsheet env: plays through its tools, what they earn, demonstrations, settings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from upslope.batteries import check_env
from upslope.batteries.env import played
from upslope.envs import spreadsheet
from upslope.envs.spreadsheet import Spreadsheet
from upslope.tables.book import Book, Sheet
from upslope.tables.scoring import Scoring, parted
from upslope.tables.tiny import KINDS
from upslope.types import Problem, Reward, Trajectory, UserError

TINY: Mapping[str, Any] = {"train": 150, "test": 40}
BOOK = Book(
    {
        "S": Sheet("S", {(row, column): row for row in range(1, 5) for column in (1, 2)}),
        "Draft": Sheet("Draft", {(1, 1): 1}, hidden=True),
    }
)


def plays_of(
    env: Spreadsheet, problem: Problem, *given: Sequence[str]
) -> tuple[list[Trajectory], list[Reward]]:
    async def all_of() -> tuple[list[Trajectory], list[Reward]]:
        plays = [await played(env, problem, replies, n) for n, replies in enumerate(given)]
        return plays, list(await env.rewards(problem, plays))

    return asyncio.run(all_of())


def facts(final: str | None, *calls: tuple[str, dict[str, str]], turns: int = 1) -> dict[str, Any]:
    rows = [{"name": n, "arguments": a, "error": "", "characters": 1} for n, a in calls]
    return {"final": final, "calls": rows, "turns": turns, "penalty": -0.02 * (turns > 5)}


@pytest.mark.parametrize(
    ("final", "gold", "cells", "total", "correct"),
    [
        ("42", ["42"], [], 0.99, 1),
        ("42.04", ["42"], [], 0.99, 1),
        ("42.05", ["42"], [], 0.0, 0),
        ("42 @ S!A1", ["42"], ["S!A1"], 1.19, 1),
        ("42 @ S!A1:A2", ["42"], ["S!A1"], 0.99 + 0.2 * 2 / 3, 1),
        ("41 @ S!A1", ["42"], ["S!A1"], 0.2, 0),
        ("42 @ S!B1", ["42"], ["S!A1"], 0.99, 1),
        ("42 @ Draft!A1", ["42"], ["S!A1"], 0.99, 1),
        ("me@home", ["me@home"], [], 0.99, 1),
        ("mail @ B2", ["mail @ B2"], [], 0.99, 1),
        ("a | b", ["b", "a"], [], 0.99, 1),
        ("unknown", ["42"], ["S!A1"], -1.0, 0),
        ("Unknown.", [], [], 0.99, 1),
        ("?", [], [], 0.99, 1),
        ("42", [], [], 0.0, 0),
        ("none", ["None"], [], 0.99, 1),
        (None, ["42"], ["S!A1"], 0.0, 0),
        (None, [], [], 0.0, 0),
        ("", ["42"], [], 0.0, 0),
    ],
)
def test_what_an_answer_earns(
    final: str | None, gold: list[str], cells: list[str], total: float, correct: float
) -> None:
    reward = Scoring().reward(facts(final), gold, frozenset(cells), BOOK)
    assert (reward.total, reward.correct, reward.valid) == (pytest.approx(total), correct, True)


def test_cells_that_were_read_count_where_none_is_named() -> None:
    read = ("read_range", {"range": "S!A1:A2"})
    cells = frozenset(("S!A1", "S!B1"))
    reward = Scoring().reward(facts("5", read, turns=2), ["5"], cells, BOOK)
    assert reward.parts["region_f1"] == pytest.approx(0.5)
    assert reward.parts["region_recall"] == pytest.approx(0.5)
    assert reward.total == pytest.approx(1 + 0.2 * 0.5 - 0.01 * 2)
    assert reward.costs == {"calls": 1.0}
    everything = ("read_range", {"range": "S!A1:B4"})
    flood = Scoring().reward(facts("5", everything), ["5"], cells, BOOK)
    assert (flood.parts["region_recall"], flood.parts["region_f1"]) == (1.0, pytest.approx(0.4))


def test_looking_for_a_hidden_sheet_is_told() -> None:
    look = facts("5", ("read_range", {"range": "Draft!A1"}))
    assert Scoring().reward(look, ["5"], frozenset(), BOOK).parts["peeked"] == 1
    assert Scoring().reward(facts("5"), ["5"], frozenset(), BOOK).parts["peeked"] == 0


def test_malformed_turns_cost_what_the_play_says() -> None:
    reward = Scoring().reward(facts("5", turns=6), ["5"], frozenset(), BOOK)
    assert reward.total == pytest.approx(1 - 0.06 - 0.02)


def test_an_answer_and_its_cells() -> None:
    assert parted("42 @ S!A1, B2")[0] == "42"
    assert [area.sheet for area in parted("42 @ S!A1, B2")[1]] == ["S", "S"]
    assert parted("a@b.c") == ("a@b.c", [])
    assert parted(" 7 ") == ("7", [])


@pytest.mark.parametrize("settings", [TINY, {"train": 40, "test": 10, "form": "react"},
                                      {"train": 20, "test": 5, "form": "json"}])  # fmt: skip
def test_gold_plays_earn_the_most(settings: Mapping[str, Any]) -> None:
    env = Spreadsheet(**settings)
    for problem in env.problems("test"):
        (play,), (gold,) = plays_of(env, problem, env.solved(problem))
        assert (gold.correct, play.facts["errors"], play.facts["malformed"]) == (1, 0, 0)
        assert 1 - 0.01 * play.facts["turns"] <= gold.total <= 1.2


def test_hurried_demonstrations_are_wrong_and_as_many_as_asked() -> None:
    env = Spreadsheet(**{**TINY, "wrong": 0.4})
    right = hurried = 0
    kinds = set()
    for problem, replies in env.plays("train"):
        _, (reward,) = plays_of(env, problem, replies)
        if list(replies) == list(env.solved(problem)):
            assert reward.correct == 1
        else:
            kinds.add(problem.info["kind"])
            hurried += 1
        right += int(reward.correct)
    assert 45 <= hurried <= 75
    assert 150 - hurried <= right <= 150 - 0.8 * hurried  # some guess right
    assert kinds == set(KINDS)


def test_a_play_is_told_what_cells_hold() -> None:
    env = Spreadsheet(**{**TINY, "kinds": "sum"})
    problem = env.problems("train")[0]
    find, read, add, answer = env.solved(problem)
    (play,), (reward,) = plays_of(env, problem, [find, read, add, answer])
    said = [m["content"] for m in play.messages]
    numbers = said[4].split()
    assert said[5] == f"c {'+'.join(numbers)}"
    assert said[6] == f"{sum(map(int, numbers))}\n"
    assert answer == f"={sum(map(int, numbers))}"
    assert reward.parts["region_f1"] == 1


def test_mistakes_are_observed_and_the_play_goes_on() -> None:
    env = Spreadsheet(**TINY)
    problem = env.problems("train")[0]
    replies = ["x y", "r ZZZ99", "c 1/0", "", "f zzzz", *env.solved(problem)[-1:]]
    (play,), (reward,) = plays_of(env, problem, replies)
    said = [m["content"] for m in play.messages if m["role"] == "user"]
    assert said == ["!\n"] * 4 + ["-\n"]
    assert (play.facts["malformed"], play.facts["errors"]) == (2, 2)
    assert reward.correct == 1
    assert reward.total == pytest.approx(1 - 0.06 - 0.04)


def test_a_play_that_never_answers_earns_nothing() -> None:
    env = Spreadsheet(**{**TINY, "turns": 3})
    problem = env.problems("train")[0]
    (play,), (reward,) = plays_of(env, problem, ["f red"] * 9)
    assert (play.facts["final"], play.facts["turns"], reward.total) == (None, 3, 0.0)


@pytest.mark.parametrize("settings", [TINY, {"train": 12, "test": 8, "form": "react"},
                                      {"train": 12, "test": 8, "form": "json"}])  # fmt: skip
def test_the_battery_passes(settings: Mapping[str, Any]) -> None:
    assert check_env(Spreadsheet(**settings), problems=2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kinds": "lookup teleport"}, "kinds has 'teleport'"),
        ({"kinds": "median"}, "choose from lookup, count"),
        ({"wrong": 1.5}, "share"),
        ({"region": -1.0}, "must not be below"),
        ({"passing": 1.0}, "must not be below"),
        ({"turn": 0.2}, "stay below 1"),
        ({"train": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Spreadsheet(**settings).problems("train")


def test_questions_that_run_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheet, "DRAWS", 0)
    with pytest.raises(UserError, match="0 train questions, not 150: lower train"):
        Spreadsheet(**TINY).problems("train")
