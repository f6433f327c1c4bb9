"""Questions read from files and from BEIR folders: grades, splits, and what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from upslope.retrieval.questions import Question, of_beir, of_file
from upslope.seeds import split_of
from upslope.types import UserError


def rows(path: Path, *given: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return str(path)


def beir(folder: Path, **judged: list[tuple[str, str, int]]) -> Path:
    """A folder with queries q0 to q99, and the judgements of each file of ``qrels``."""
    rows(folder / "queries.jsonl", *({"_id": f"q{n}", "text": f"what {n}"} for n in range(100)))
    (folder / "qrels").mkdir()
    for name, lines in judged.items():
        text = "".join(f"{q}\t{d}\t{grade}\n" for q, d, grade in lines)
        head = "query-id\tcorpus-id\tscore\n"
        (folder / "qrels" / f"{name}.tsv").write_text(head + text, encoding="utf-8")
    return folder


def test_rows_of_a_file(tmp_path: Path) -> None:
    path = rows(
        tmp_path / "q.jsonl",
        {"id": "a", "question": " who? ", "answers": ["Ada", "A. Lovelace"], "evidence": ["d1"]},
        {"question": "how many?", "answer": 3},
        {"question": "where?", "evidence": {"d1": 2, "d2": 0, "d3": 0.5}},
    )
    first, second, third = of_file(path)
    assert first == Question(
        "a", "who?", split_of("who?"), f"{path}, line 1", ("Ada", "A. Lovelace"), {"d1": 1.0}
    )
    assert (second.answers, dict(second.evidence)) == (("3",), {})
    assert (third.answers, dict(third.evidence)) == ((), {"d1": 2.0, "d3": 0.5})
    assert len({first.id, second.id, third.id}) == 3


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": "q"}, 'line 1: give "answers", "evidence" or both to grade by'),
        ({"answer": "x"}, 'line 1: the field "question" is missing'),
        ({"question": "q", "answer": " "}, "the answer ' ' has no word to compare"),
        ({"question": "q", "answers": ["x", None]}, "the answer 'None' has no word to compare"),
        ({"question": "q", "answers": ["[d1]"]}, "the answer '[d1]' has no word to compare"),
        ({"question": "q", "evidence": "d1"}, '"evidence" must be a list of passage ids'),
        ({"question": "q", "evidence": [1]}, '"evidence" must be a list of passage ids'),
        ({"question": "q", "evidence": {"d": -1}}, 'grades in "evidence" must be numbers'),
        ({"question": "q", "evidence": {"d": "x"}}, 'grades in "evidence" must be numbers'),
    ],
)
def test_a_broken_row_is_a_sentence(tmp_path: Path, row: object, sentence: str) -> None:
    path = rows(tmp_path / "q.jsonl", row)
    with pytest.raises(UserError) as caught:
        list(of_file(path))
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"{path}, line 1")


def test_beirs_files_are_the_splits(tmp_path: Path) -> None:
    judged = [(f"q{n}", "d1", 1) for n in range(50)]
    folder = beir(tmp_path / "b", train=judged, test=[("q60", "d1", 2), ("q60", "d2", 0)])
    found = {q.id: q for q in of_beir(folder)}
    assert len(found) == 51
    assert found["q60"].split == "test"
    assert dict(found["q60"].evidence) == {"d1": 2.0}
    held_out = [f"q{n}" for n in range(50) if split_of(f"what {n}") == "validation"]
    assert held_out
    assert [q.id for q in found.values() if q.split == "validation"] == held_out
    assert sum(q.split == "train" for q in found.values()) == 50 - len(held_out)


def test_a_dev_file_is_the_validation(tmp_path: Path) -> None:
    folder = beir(
        tmp_path / "b", train=[(f"q{n}", "d", 1) for n in range(50)], dev=[("q70", "d", 1)]
    )
    assert [q.id for q in of_beir(folder) if q.split == "validation"] == ["q70"]


def test_one_file_is_split_by_the_questions(tmp_path: Path) -> None:
    folder = beir(tmp_path / "b", test=[(f"q{n}", "d", 1) for n in range(100)])
    found = list(of_beir(folder))
    assert all(q.split == split_of(q.text) for q in found)
    assert {q.split for q in found} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("judged", "sentence"),
    [
        ({}, "has no qrels/train.tsv, dev.tsv or test.tsv: set questions"),
        ({"test": [("gone", "d", 1)]}, "test.tsv: the query 'gone' is not in"),
        ({"train": [("q1", "d", 1)], "test": [("q1", "d", 1)]}, "the query 'q1' is also in"),
        ({"test": [("q1", "d", "much")]}, "test.tsv, line 2: expected query-id, corpus-id and"),
    ],
)
def test_broken_judgements_are_a_sentence(tmp_path: Path, judged: object, sentence: str) -> None:
    folder = beir(tmp_path / "b", **judged)  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        list(of_beir(folder))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_queries_are_a_sentence(tmp_path: Path) -> None:
    folder = beir(tmp_path / "b", test=[("q1", "d", 1)])
    (folder / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"cannot read .*queries.jsonl: No such file"):
        list(of_beir(folder))
