"""Recall, nDCG, exact match, F1 and citations, to numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from upslope.rewards.retrieval import (
    Weights,
    answered,
    citations,
    exact,
    graded,
    ndcg,
    plain,
    ranked,
    recall,
    word_f1,
)
from upslope.types import Problem, Trajectory


@pytest.mark.parametrize(
    ("final", "answer", "cited"),
    [
        ("Paris", "Paris", []),
        ("Paris [d1]", "Paris", ["d1"]),
        ("Paris [d1] [notes/a b.md#2].", "Paris", ["d1", "notes/a b.md#2"]),
        ("Paris[d1][d1]\n", "Paris", ["d1"]),
        ("in [1889] it was Paris", "in [1889] it was Paris", []),
        ("[d1]", "", ["d1"]),
        ("", "", []),
        ("Paris [", "Paris [", []),
        ("Paris [[d1]]", "Paris [[d1]]", []),
    ],
)
def test_citations_are_the_brackets_at_the_end(final: str, answer: str, cited: list[str]) -> None:
    assert answered(final) == (answer, cited)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[a] " * 50_000 + "x", " " * 100_000, "[" + "a" * 9**6]
)
def test_hostile_answers_take_no_time(text: str) -> None:
    answer, cited = answered(text)
    assert len(answer) <= 2000
    assert len(cited) <= 1
    assert plain(text) == plain(text[:2000])


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("The Eiffel Tower!", "eiffel  tower"),
        ("an apple", "Apple"),
        ("54\u00a0Mbit/s", "54 mbits"),
        ("“U.S.”", "us"),
        ("ﬁve", "five"),
        ("$5", "5"),
    ],
)
def test_answers_are_compared_plainly(said: str, gold: str) -> None:
    assert plain(said) == plain(gold)
    assert exact(said, ["other", gold]) == 1


def test_words_inside_words_are_no_articles() -> None:
    assert plain("a theatre and another") == "theatre and another"
    assert exact("Paris", ["Lyon", "Paris, France"]) == 0
    assert exact("", ["Paris"]) == 0


def test_what_is_punctuation_alone_is_compared_as_it_is() -> None:
    assert (plain(" A+ "), plain("*"), plain("The"), plain(" ")) == ("a+", "*", "the", "")
    assert exact("a+", ["A+"]) == 1
    assert exact("A-", ["A+"]) == exact("", ["A+"]) == exact("", ["*"]) == 0


def test_f1_is_of_words_and_of_the_nearest_answer() -> None:
    # two of three words said, of two words wanted: 2 * 2 / (3 + 2)
    assert word_f1("Paris in France", ["Rome", "Paris, France"]) == pytest.approx(0.8)
    # "b b" shares one b with "b c": 2 * 1 / (2 + 2)
    assert word_f1("b b", ["b c"]) == pytest.approx(0.5)
    assert word_f1("", ["b"]) == word_f1("x", ["b"]) == word_f1("x", []) == 0


def test_the_ranking_is_what_a_play_puts_forward() -> None:
    assert ranked(["c", "unseen"], ["b", "a"], ["a", "c", "d"]) == ["c", "b", "a", "d"]


def test_recall_at_k() -> None:
    assert recall(["a", "x", "b", "c"], {"a", "b"}, 2) == 0.5
    assert recall(["a", "x", "b", "c"], {"a", "b"}, 3) == 1
    # three pieces of evidence cannot be among the first two: two suffice
    assert recall(["a", "b"], {"a", "b", "c"}, 2) == 1
    assert recall([], {"a"}, 5) == 0


def test_ndcg_by_hand() -> None:
    gold = {"a": 2.0, "b": 1.0}
    # gains 0, 2, 1 at places 1 to 3; best is 2, 1
    got = 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(["x", "a", "b"], gold, 3) == pytest.approx(got / (2 + 1 / math.log2(3)))
    assert got / (2 + 1 / math.log2(3)) == pytest.approx(0.66967, abs=1e-5)
    assert ndcg(["a", "b"], gold, 10) == 1
    assert ndcg(["b", "a"], gold, 1) == 0.5
    assert ndcg(["x"], gold, 3) == 0


def test_what_was_never_seen_is_cited_wrongly() -> None:
    seen, gold = {"a", "b", "x"}, {"a", "b"}
    assert citations(["a", "b"], seen, gold) == 1
    assert citations(["a"], seen, gold) == pytest.approx(2 / 3)
    assert citations(["a", "x"], seen, gold) == pytest.approx(1 / 2)
    assert citations(["a", "b"], {"a"}, gold) == pytest.approx(1 / 2)
    assert citations([], seen, gold) == citations(["x"], seen, gold) == 0


def test_weights_are_of_the_parts_that_there_are() -> None:
    weights = Weights(exact=1, f1=1, recall=2, ndcg=0, citations=0)
    assert weights.total({"exact": 1, "f1": 0.5, "recall": 0.25}) == pytest.approx(0.5)
    assert weights.total({"recall": 0.25, "ndcg": 1, "citations": 1}) == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"one of them above 0"):
        Weights(0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match=r"must not be negative"):
        Weights(exact=-1)


def play(info: dict[str, Any], facts: dict[str, Any]) -> Trajectory:
    problem = Problem("q", prompt="?", info={"answers": (), "evidence": {}, **info})
    return Trajectory(problem, 0, 0, (), (), (), facts=facts)


def test_a_play_earns_its_parts_less_its_penalty() -> None:
    info = {"answers": ("Paris",), "evidence": {"d1": 1.0, "d2": 1.0}}
    facts: dict[str, Any] = {
        "final": "Paris, France [d1]",
        "listed": ["d3", "d1"],
        "opened": ["d1"],
    }
    facts["penalty"] = -0.02
    reward = graded(play(info, facts), Weights(1, 1, 1, 1, 1), 1)
    parts = {"exact": 0, "f1": 2 / 3, "recall": 1, "ndcg": 1, "citations": 2 / 3, "correct": 0}
    assert reward.parts == pytest.approx(parts)
    assert reward.total == pytest.approx((2 / 3 + 1 + 1 + 2 / 3) / 5 - 0.02)
    assert (reward.valid, reward.answer) == (True, "paris france")


def test_a_question_without_answers_is_about_its_evidence() -> None:
    facts = {"final": "[d1] [d2]", "listed": ["d2", "d1"], "opened": []}
    reward = graded(play({"evidence": {"d1": 2.0, "d2": 1.0}}, facts), Weights(), 2)
    assert reward.parts == {"recall": 1, "ndcg": 1, "citations": 1, "correct": 1}
    assert (reward.total, reward.answer) == (1, "d1 d2")
    worse = graded(play({"evidence": {"d1": 2.0, "d2": 1.0}}, {**facts, "final": ""}), Weights(), 2)
    assert worse.correct == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


@pytest.mark.parametrize("facts", [{}, {"final": None}, {"final": ""}])
def test_a_play_without_an_answer_earns_nothing(facts: dict[str, Any]) -> None:
    reward = graded(play({"answers": ("x",), "evidence": {"d": 1.0}}, facts), Weights(), 5)
    assert reward.valid
    assert reward.total == 0
    assert set(reward.parts.values()) == {0}
