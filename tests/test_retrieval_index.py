"""Corpora read, cut and indexed; passages ranked by BM25, to numbers computed by hand."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from upslope.retrieval import index as indexes
from upslope.retrieval.index import Index, folder_of, in_memory, opened, words_of
from upslope.retrieval.passages import Corpus, Passage, cut
from upslope.retrieval.sparse import opened_sparse
from upslope.types import UserError


def passages(*texts: str) -> list[Passage]:
    """Texts without titles, named by their places."""
    return [Passage(f"d{n}", "", text) for n, text in enumerate(texts)]


def rows(path: Path, *given: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return path


def ids(found: Sequence[Passage]) -> list[str]:
    return [passage.id for passage in found]


def test_scores_are_bm25_by_hand() -> None:
    """f (k + 1) / (f + k (1 - b + b D / average)) times ln((N - n + 0.5) / (n + 0.5)) a word."""
    held = in_memory(passages("red fox", "blue fox red fox", "dog", "cat mouse", "owl owl bat elk"))
    asked = "SELECT p.id, -bm25(words, 2.0, 1.0) FROM words JOIN passages p ON p.number = "
    asked += 'words.rowid WHERE words MATCH \'"fox" OR "red"\' ORDER BY p.number'
    scores = dict(held.connection.execute(asked).fetchall())
    average, rare = 13 / 5, math.log(3.5 / 2.5)

    def of(frequency: int, length: int) -> float:
        norm = frequency + 1.2 * (0.25 + 0.75 * length / average)
        return rare * frequency * 2.2 / norm

    assert scores == pytest.approx({"d0": of(1, 2) + of(1, 2), "d1": of(2, 4) + of(1, 4)}, rel=1e-9)
    assert ids(held.search("fox red", 5)) == sorted(scores, key=lambda name: -scores[name])


def test_a_title_counts_twice_and_equals_stay_in_order() -> None:
    held = in_memory(
        [
            Passage("in text", "x", "fox a b"),
            Passage("in title", "fox", "x a b"),
            Passage("also in text", "x", "fox c d"),
            *(Passage(f"other {n}", "y", "z") for n in range(9)),
        ]
    )
    assert ids(held.search("fox", 9)) == ["in title", "in text", "also in text"]
    assert ids(held.search("fox", 2)) == ["in title", "in text"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('"fox" OR (', ["d0"]),
        ("NEAR(fox, dog) AND NOT *", ["d0", "d1"]),
        ("title:fox -- '; DROP TABLE passages", ["d0"]),
        ("FOXES", ["d0"]),
        ("cafe\u0301", ["d2"]),
        ("CAFE", ["d2"]),
        ("東京", ["d3"]),
        ("zebra", []),
        ("\0 \ud800 fox", ["d0"]),
        ("", []),
        ("?! \"'", []),
    ],
)
def test_any_text_is_a_query(query: str, found: list[str]) -> None:
    held = in_memory(passages("the fox", "a dog", "un café", "東京 tower", "a cow", "a hen", "pig"))
    assert sorted(ids(held.search(query, 5))) == found
    assert held.read("d0") is not None  # nothing was dropped


def test_a_huge_query_is_bounded() -> None:
    held = in_memory(passages(*(f"word{n} here" for n in range(2000)), "fox"))
    query = "fox " + " ".join(f"word{n}" for n in range(200_000))
    assert len(words_of(query)) == 32
    assert words_of("Fox fox FOX dog") == ["Fox", "dog"]
    start = time.process_time()
    assert ids(held.search(query, 1)) == ["d2000"]
    assert time.process_time() - start < 0.5


def test_a_search_takes_a_few_milliseconds() -> None:
    words = [f"w{n}" for n in range(997)]
    texts = [" ".join(words[(n * k) % 997] for k in range(1, 60)) for n in range(3000)]
    held, seconds = in_memory(passages(*texts)), []
    for n in range(60):
        start = time.process_time()
        assert len(held.search(f"w{n} w{n + 1} w{n + 2} w{n + 3}", 5)) == 5
        seconds.append(time.process_time() - start)
    assert sorted(seconds)[57] < 0.05  # the 95th percentile, with room for a busy machine


def test_a_folder_of_texts_is_cut_at_headings_and_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "guide.md").write_text(
        "# Foxes\n\nA fox is red.\n\nIt hunts.\n\n## Dens\nUnder the ground.\n", encoding="utf-8"
    )
    (tmp_path / "plain.txt").write_text("\ufeffone two\r\n\r\nthree four five", encoding="utf-8")
    (tmp_path / "data.bin").write_bytes(b"\xff\xfe")
    found = list(Corpus.at(str(tmp_path), 50).passages())
    assert found == [
        Passage("deep/guide.md#1", "Foxes", "A fox is red.\n\nIt hunts."),
        Passage("deep/guide.md#2", "Dens", "Under the ground."),
        Passage("plain.txt", "plain", "one two\n\nthree four five"),
    ]
    assert [p.text for p in cut("a.txt", "one two\n\nthree four five six", 3)] == [
        "one two",
        "three four five",
        "six",
    ]
    assert list(cut("empty.md", "\n\n# Only a heading\n", 3)) == []


def test_rows_in_beir_form(tmp_path: Path) -> None:
    rows(
        tmp_path / "corpus.jsonl",
        {"_id": "a1", "title": "Fox", "text": "It is red.", "metadata": {}},
        {"_id": 2, "title": "", "text": "A dog.\ud800"},
        {"_id": "t", "title": "Only a title", "text": ""},
    )
    index = opened(Corpus.at(str(tmp_path), 50), tmp_path)
    assert index.read("a1") == Passage("a1", "Fox", "It is red.")
    assert index.read("2") == Passage("2", "", "A dog.?")
    assert index.read("t") == Passage("t", "Only a title", "")
    assert index.read("\ud800") is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([{"_id": "a", "text": "x"}, {"_id": "a", "text": "y"}], "line 2 has the same id 'a' as"),
        ([{"_id": "a"}], 'line 1: the field "text" is missing'),
        ([{"text": "x"}], 'line 1: the field "id" is missing'),
        ([{"_id": "a[1]", "text": "x"}], "line 1: the id 'a[1]' has brackets"),
        ([{"_id": "a", "text": "x", "title": 3}], 'line 1: the field "title" must be text'),
        (["text"], "line 1: expected an object in braces"),
        ([], "holds no rows"),
    ],
)
def test_a_broken_corpus_is_a_sentence(
    tmp_path: Path, given: Sequence[object], sentence: str
) -> None:
    path = rows(tmp_path / "c.jsonl", *given)
    with pytest.raises(UserError) as caught:
        opened(Corpus.at(str(path), 50), tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [f.name for f in tmp_path.iterdir() if "sqlite" in f.name and f.suffix != ".lock"] == []


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus = '.*gone' does not exist: give a folder"):
        Corpus.at(str(tmp_path / "gone"), 50)
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=r"another kind than .jsonl: give the folder"):
        Corpus.at(str(tmp_path / "a.pdf"), 50)
    with pytest.raises(UserError, match=r"has no .txt, .md or .markdown file, and no corpus.jsonl"):
        Corpus.at(str(tmp_path), 50).files()
    (tmp_path / "a.txt").write_text(" \n\n ", encoding="utf-8")
    with pytest.raises(UserError, match=r"has no text in any of its files"):
        opened(Corpus.at(str(tmp_path), 50), tmp_path)
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(UserError, match=r"a.txt is not UTF-8 at byte 2: save it as UTF-8"):
        opened(Corpus.at(str(tmp_path), 50), tmp_path)
    with pytest.raises(UserError, match=r"index = '.*gone' is no folder: make it"):
        folder_of(str(tmp_path / "gone"))


def test_an_index_is_kept_until_its_corpus_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    fill = indexes._fill
    monkeypatch.setattr(indexes, "_fill", lambda *given: (built.append(1), fill(*given)))
    held, kept = tmp_path / "texts", tmp_path / "kept"
    held.mkdir()
    (held / "a.txt").write_text("a fox", encoding="utf-8")
    (held / "b.txt").write_text("a dog", encoding="utf-8")
    corpus = Corpus.at(str(held), 50)
    assert ids(opened(corpus, kept).search("fox", 5)) == ["a.txt"]
    assert ids(opened(corpus, kept).search("fox", 5)) == ["a.txt"]
    assert len(built) == 1
    assert opened(Corpus.at(str(held), 49), kept).read("a.txt")
    assert len(built) == 2  # cut in another way
    (held / "a.txt").write_text("a cow", encoding="utf-8")
    assert ids(opened(corpus, kept).search("fox", 5)) == []
    assert len(built) == 3
    (held / "a.txt").rename(held / "c.txt")
    assert opened(corpus, kept).read("c.txt")
    assert len(built) == 4


def test_a_damaged_index_is_built_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox", encoding="utf-8")
    corpus = Corpus.at(str(tmp_path), 50)
    path = tmp_path / f"{corpus.digest()}.sqlite"
    for damage in (b"", b"no database at all" * 100):
        path.write_bytes(damage)
        indexes._open.cache_clear()
        assert ids(opened(corpus, tmp_path).search("fox", 5)) == ["a.txt"]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be written to .* set index to a folder"):
        opened(Corpus.at(str(tmp_path), 50), tmp_path / "a.txt" / "kept")


BUILDER = """
import sys
from pathlib import Path
from upslope.retrieval import index
from upslope.retrieval.passages import Corpus
fill = index._fill
def told(*given):
    print("built", flush=True)
    fill(*given)
index._fill = told
found = index.opened(Corpus.at(sys.argv[1], 50), Path(sys.argv[2]))
print(len(found.search("fox", 500)), found.read("d299").text)
"""


def test_several_processes_build_it_once(tmp_path: Path) -> None:
    path = rows(tmp_path / "c.jsonl", *({"_id": f"d{n}", "text": f"fox {n}"} for n in range(300)))
    command = [sys.executable, "-c", BUILDER, str(path), str(tmp_path / "kept")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].split("\n") for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert {lines[-2] for lines in said} == {"300 fox 299"}
    assert sum(lines.count("built") for lines in said) == 1


def test_sqlite_without_full_text_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "TABLES", indexes.TABLES.replace("fts5(", "fts5_gone("))
    with pytest.raises(UserError, match=r"no full-text search .FTS5.: use a Python built with"):
        in_memory(passages("a fox"))


def test_bm25s_ranks_by_its_own_bm25(tmp_path: Path) -> None:
    """Lucene's: ln(1 + (N - n + 0.5) / (n + 0.5)) f / (f + 1.5 (1 - 0.75 + 0.75 D / average))."""
    pytest.importorskip("bm25s")
    texts = ["red fox", "blue fox red fox", "dog", "cat mouse", "owl owl bat elk"]
    path = rows(tmp_path / "c.jsonl", *({"_id": f"d{n}", "text": t} for n, t in enumerate(texts)))
    kept = tmp_path / "kept"
    found = opened_sparse(Corpus.at(str(path), 50), kept)
    average, rare = 13 / 5, math.log(1 + 3.5 / 2.5)

    def of(frequency: int, length: int) -> float:
        return rare * frequency / (frequency + 1.5 * (0.25 + 0.75 * length / average))

    wanted = [2 * of(1, 2), of(2, 4) + of(1, 4), 0, 0, 0]
    assert found.scores.get_scores(["fox", "red"]).tolist() == pytest.approx(wanted, rel=1e-5)
    assert ids(found.search("FOX, red?", 5)) == ["d0", "d1"]
    assert ids(found.search("owl dog fox", 1)) == ["d2"]
    assert ids(found.search("zebra", 5)) == ids(found.search("", 5)) == []
    assert ids(found.search("mouse elk", 1)) == ["d3"]
    found_again = opened_sparse(Corpus.at(str(path), 50), kept)
    assert found_again is found
    assert len(list(kept.glob("*.bm25s"))) == 1


def test_sqlite_and_the_index_agree_on_what_is_a_word() -> None:
    held = in_memory(passages("semi-final, don't_stop", "other", "more", "some"))
    assert isinstance(held, Index)
    assert isinstance(held.connection, sqlite3.Connection)
    for word in ("semi", "FINAL", "don't", "don't_stop", "stop"):
        assert ids(held.search(word, 5)) == ["d0"], word
