"""The retrieval env over a folder and over BEIR's form: plays, grades, and faulty input."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from upslope.batteries import check_env
from upslope.components import build
from upslope.dialogues import performed
from upslope.envs import retrieval
from upslope.envs.retrieval import Retrieval
from upslope.rewards.retrieval import Weights
from upslope.tools.play import Limits
from upslope.types import Problem, Reward, Trajectory, UserError

RIVERS = {"Seine": "Paris", "Tiber": "Rome", "Thames": "London", "Spree": "Berlin"}


def rows(path: Path, given: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return str(path)


@pytest.fixture
def cities(tmp_path: Path) -> dict[str, Any]:
    """A folder of texts, a question file with two hops each, and where the index goes."""
    folder, kept = tmp_path / "texts", tmp_path / "kept"
    folder.mkdir()
    kept.mkdir()
    asked = []
    for number in range(60):
        river, city = [*RIVERS.items()][number % 4]
        (folder / f"mayor{number}.md").write_text(
            f"# Mayor {number}\n\nMayor number{number} governs {city}.", encoding="utf-8"
        )
        evidence = [f"mayor{number}.md", f"{city.lower()}.txt"]
        question = f"On which river is the city of mayor number{number}?"
        asked.append({"question": question, "answers": [f"the {river}"], "evidence": evidence})
    for river, city in RIVERS.items():
        text = f"{city} lies on the {river}."
        (folder / f"{city.lower()}.txt").write_text(text, encoding="utf-8")
    questions = rows(tmp_path / "questions.jsonl", asked)
    return {"corpus": str(folder), "questions": questions, "index": str(kept)}


def earned(env: Retrieval, problem: Problem, *replies: str) -> Reward:
    """What a play of these replies earns."""
    done = asyncio.run(performed(env, problem, replies))
    play = Trajectory(problem, 0, 0, (), (), done.messages, facts=done.facts)
    (reward,) = asyncio.run(env.rewards(problem, [play]))
    return reward


@pytest.mark.parametrize("form", ["react", "json"])
def test_it_passes_the_battery(cities: dict[str, Any], form: Any) -> None:
    proven = {p.claim: p.seen for p in check_env(Retrieval(**cities, form=form), problems=2)}
    assert proven["solutions earn the most, empty replies do not"] == "6 of 6 problems have one"


def test_two_hops_by_searching(cities: dict[str, Any]) -> None:
    env = Retrieval(**cities, weights=Weights(1, 1, 1, 1, 1), results=3)
    problem = next(p for p in env.problems("train") if "number7?" in p.info["question"])
    replies = (
        'Action: search[query="mayor number7"]',
        'Action: search[query="Berlin lies river"]',
        "Final: Spree [mayor7.md] [berlin.txt]",
    )
    done = asyncio.run(performed(env, problem, replies))
    assert "mayor7.md Mayor 7: Mayor number7 governs Berlin." in str(done.messages[2]["content"])
    assert "berlin.txt berlin: Berlin lies on the Spree." in str(done.messages[4]["content"])
    assert earned(env, problem, *replies).total == 1
    one_hop = earned(env, problem, replies[0], "Final: the river Spree [mayor7.md] [berlin.txt]")
    # words 2 of 2 and 1 of 1: "river spree" against "spree"; Berlin's passage was never seen
    assert one_hop.parts["f1"] == pytest.approx(2 / 3)
    assert one_hop.parts["citations"] == 0.5
    assert one_hop.parts["recall"] == 0.5
    assert one_hop.parts["ndcg"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert one_hop.correct == 0


def test_beirs_form_ranks_passages(tmp_path: Path) -> None:
    texts = ["a red fox", "a fox den", "a dog", "a cat", "an owl", "a bat"]
    rows(tmp_path / "corpus.jsonl", [{"_id": f"d{n}", "text": t} for n, t in enumerate(texts)])
    rows(tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"fox {n}"} for n in range(40)])
    (tmp_path / "qrels").mkdir()
    judged = "".join(f"q{n}\td1\t2\nq{n}\td0\t1\nq{n}\td2\t0\n" for n in range(40))
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    env = build(Retrieval, {"corpus": str(tmp_path), "index": str(tmp_path)}, "env")
    check_env(env, problems=2)
    problem = env.problems("test")[0]
    assert "the best first" in str(problem.messages[0]["content"])
    assert problem.solution == "[d1] [d0]"
    search = 'Action: search[query="fox"]'
    assert earned(env, problem, search, "Final: [d1] [d0]").correct == 1
    turned = earned(env, problem, search, "Final: [d0] [d1]")
    best = 2 + 1 / math.log2(3)
    assert turned.correct == pytest.approx((1 + 2 / math.log2(3)) / best)
    assert turned.parts["recall"] == turned.parts["citations"] == 1


def test_more_evidence_than_turns_has_no_known_play(cities: dict[str, Any]) -> None:
    env = Retrieval(**cities, limits=Limits(turns=2))
    assert {p.solution for p in env.problems("train")} == {""}
    check_env(env, problems=1)


def test_bm25s_finds_the_same(cities: dict[str, Any]) -> None:
    pytest.importorskip("bm25s")
    found = []
    for ranking in ("fts5", "bm25s"):
        env = build(Retrieval, {**cities, "ranking": ranking}, "env")
        problem = env.problems("train")[0]
        done = asyncio.run(performed(env, problem, ['Action: search[query="number9 governs"]']))
        found.append(done.facts["listed"][0])
    assert found == ["mayor9.md", "mayor9.md"]


def test_without_the_extra_it_says_which(
    cities: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "installed", lambda: False)
    with pytest.raises(UserError, match=r"bm25s: pip install 'upslope\[retrieval\]'"):
        Retrieval(**cities, ranking="bm25s")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"corpus": "gone"}, "corpus = 'gone' does not exist: give a folder"),
        ({"questions": "gone.jsonl"}, "questions = 'gone.jsonl' does not exist: give a"),
        ({"questions": ""}, "name the questions: set questions to a .jsonl file"),
        ({"index": "gone"}, "index = 'gone' is no folder: make it, or leave index out"),
        ({"words": 0}, "words, results and k must be at least 1"),
        ({"weights": {"exact": -1.0}}, "weights must not be negative"),
    ],
)
def test_wrong_settings_are_a_sentence(
    cities: dict[str, Any], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as caught:
        build(Retrieval, {**cities, **settings}, "env")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([{"question": "q", "answer": "x", "evidence": ["gone"]}], "'gone' is no passage of the"),
        ([{"question": "q", "answer": "x"}] * 2, "line 2 has the same question as"),
        (
            [{"id": 1, "question": q, "answer": "x"} for q in "ab"],
            "line 2 has the same id '1' as",
        ),
    ],
)
def test_wrong_questions_are_a_sentence(
    cities: dict[str, Any], tmp_path: Path, given: list[dict[str, Any]], sentence: str
) -> None:
    path = rows(tmp_path / "wrong.jsonl", given)
    with pytest.raises(UserError) as caught:
        Retrieval(**{**cities, "questions": path}).problems("train")
    assert sentence in str(caught.value)


def test_a_turn_is_answered_in_milliseconds(cities: dict[str, Any]) -> None:
    env, seconds = Retrieval(**cities), list[float]()
    problem = env.problems("train")[0]

    async def play() -> None:
        async with env.play(problem) as episode:
            for number in range(7):
                query = f"mayor number{number} of the city on the river"
                said = {"role": "assistant", "content": f'Action: search[query="{query}"]'}
                start = time.process_time()
                assert await episode.reply([said])
                seconds.append(time.process_time() - start)

    for _ in range(10):
        asyncio.run(play())
    assert sorted(seconds)[66] < 0.05  # the 95th percentile of 70
