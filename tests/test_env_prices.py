"""The price-list env: its questions, its splits and its grading."""

from __future__ import annotations

import asyncio
import re

import pytest

from upslope.envs.prices import EXAMPLES, Prices
from upslope.seeds import split_of
from upslope.types import Env, Problem, Split, Trajectory, UserError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ENV = Prices(train=400, test=100)


def graded(problem: Problem, *replies: str) -> list[tuple[float, float]]:
    """(total, format) of each reply."""
    group = [
        Trajectory(problem, 0, i, (), (), ({"role": "assistant", "content": reply},))
        for i, reply in enumerate(replies)
    ]
    rewards = asyncio.run(ENV.rewards(problem, group))
    assert all(r.valid and r.correct == r.total for r in rewards)
    return [(r.total, r.parts["format"]) for r in rewards]


def test_prompt_is_two_examples_and_a_list() -> None:
    problem = ENV.problems("test")[0]
    listed = {int(price) for price in re.findall(r"\$(\d\d)", problem.id)}
    assert EXAMPLES == (
        "table $93, cup $16, shirt $19\nHighest price: $93\n\n"
        "chair $17, knife $74, hat $37\nHighest price: $74\n\n"
    )
    assert problem.prompt == f"{EXAMPLES}{problem.id}\nHighest price: $"
    assert len(listed) == 3
    assert problem.answer == str(max(listed))
    assert problem.stop == ("\n",)


def test_questions_are_unique_stable_and_in_their_split() -> None:
    questions = {split: [p.id for p in ENV.problems(split)] for split in SPLITS}
    assert [len(questions[s]) for s in SPLITS] == [400, 100, 100]
    for split, ids in questions.items():
        assert len(set(ids)) == len(ids)
        assert {split_of(question) for question in ids} == {split}
        assert ids == [p.id for p in Prices(train=400, test=100).problems(split)]
    assert questions["test"] != [p.id for p in Prices(test=100, seed=1).problems("test")]
    longer = [p.id for p in Prices(train=500).problems("train")]
    assert longer[:400] == questions["train"]


def test_answer_is_at_every_place_equally_often() -> None:
    lists = [(re.findall(r"\$(\d\d)", p.id), p.answer) for p in Prices(test=900).problems("test")]
    places = [prices.index(answer) for prices, answer in lists]
    assert all(abs(places.count(place) - 300) < 60 for place in range(3))


def test_longer_lists() -> None:
    problem = Prices(items=6, test=1).problems("test")[0]
    assert problem.id.count("$") == 6


def test_gold_earns_one_and_nothing_else_does() -> None:
    for problem in ENV.problems("test"):
        other = str(int(problem.answer) - 1)
        assert graded(problem, problem.solution, "", other) == [(1, 1), (0, 0), (0, 1)]


def test_garbage_earns_nothing() -> None:
    problem = ENV.problems("test")[0]
    replies = ["\x00", "９９", "$", f"{problem.answer} or so", f"{problem.answer}.0", "9" * 10000]
    assert all(total == 0 for total, _ in graded(problem, *replies))
    assert graded(problem, f" {problem.answer} ") == [(1, 1)]


def test_one_answer_ends_the_play() -> None:
    async def play() -> None:
        async with ENV.play(ENV.problems("test")[0]) as episode:
            assert await episode.reply(()) is None
            assert await episode.facts() == {}

    env: Env = ENV
    assert isinstance(env, Env)
    asyncio.run(play())


@pytest.mark.parametrize("settings", [{"items": 1}, {"items": 18}, {"train": 0}, {"test": -1}])
def test_settings_out_of_bounds_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        Prices(**settings)
