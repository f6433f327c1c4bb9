"""The store of preferences: asking, answering, undoing; two writers, kills; agreement."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from upslope.preferences.agreement import alpha, with_rest
from upslope.preferences.answered import agreements, pairs_in
from upslope.preferences.asked import Candidate, Kind, Proposal, Said
from upslope.preferences.look import lines
from upslope.preferences.pair import Selection
from upslope.preferences.store import LEASE, Store
from upslope.types import Problem, UserError

SOURCE = Path(__file__).parent.parent / "src"
NAN = float("nan")
# Four observers and twelve units: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
# Two observers of ten binary units, and of twelve nominal ones, from the same paper: 0.095, 0.692.
BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
NOMINAL = [[1, 1, 2, 2, 4, 3, 3, 3, 5, 4, 4, 1], [2, 1, 2, 2, 2, 3, 3, 3, 5, 4, 4, 4]]


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def asking(name: str, *texts: str, kind: Kind = "pair", wanted: int = 1) -> Proposal:
    replies = tuple(map(Candidate, texts or ("yes", "no")))
    return Proposal(Problem(name, prompt=f"{name}?"), replies, kind, "why not", wanted)


def opened(folder: Path, *asked: Proposal, clock: Any = time.time) -> Store:
    store = Store(folder / "prefs.sqlite", create=True, clock=clock)
    store.propose(asked)
    return store


def scores(question: Any, **of: float) -> list[float]:
    """Numbers by text, in the order in which the question shows its replies."""
    return [of[one.text] for one in question.candidates]


def test_an_answer_is_kept_with_who_when_and_why(tmp_path: Path) -> None:
    clock = Clock()
    with opened(
        tmp_path, asking("a", "good", "bad", "worse", kind="ranking"), clock=clock
    ) as store:
        question = store.next_question("Ann")
        assert question is not None
        assert (question.problem.prompt, question.kind, question.reason) == (
            "a?",
            "ranking",
            "why not",
        )
        clock.now = 2000.0
        given = scores(question, good=2, bad=1, worse=0)
        store.answer(question.number, "Ann", given, "it is right", {"seconds": 3})
    with Store(tmp_path / "prefs.sqlite") as store:
        (answer,) = store.answers()
        assert answer.said == Said("Ann", tuple(given), "it is right", 2000.0, {"seconds": 3})
        pairs = {(p.chosen, p.rejected) for p in pairs_in(store.answers())}
        assert pairs == {("good", "bad"), ("good", "worse"), ("bad", "worse")}
        assert store.next_question("Ann") is None


def test_the_order_of_replies_says_nothing_of_where_they_come_from(tmp_path: Path) -> None:
    asked = [asking(str(i), "first", "second") for i in range(200)]
    with opened(tmp_path, *asked) as store:
        shown = [q.candidates[0].text for q in store.questions()]
    assert shown.count("first") == pytest.approx(100, abs=30)


def test_the_same_question_is_asked_once_whatever_the_order_of_its_replies(tmp_path: Path) -> None:
    with opened(tmp_path, asking("a")) as store:
        assert store.propose([asking("a", "no", "yes"), asking("b")]) == 1
        assert store.propose([asking("a", kind="ranking")]) == 1
        assert store.counts().questions == {"pair": 2, "ranking": 1}
        assert store.counts().problems == 2
        assert store.counts().replies == 2  # a text is kept once


def test_annotators_share_the_work_and_a_lease_ends(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, asking("a"), asking("b"), clock=clock) as store:
        seen = [store.next_question(who) for who in ("Ann", "Ben", "Cem", "Ann")]
        # Each has one before them, nothing is left for the third, and who asks again sees the same.
        assert [q and q.number for q in seen] == [1, 2, None, 1]
        clock.now += LEASE + 1
        freed = store.next_question("Cem")
        assert freed is not None
        assert freed.number == 1
        store.answer(1, "Ann", [1, 0])  # late, and kept all the same
        assert [a.said.annotator for a in store.answers()] == ["Ann"]


def test_a_question_wants_as_many_answers_and_a_skip_is_none(tmp_path: Path) -> None:
    with opened(tmp_path, asking("a", wanted=2)) as store:
        store.answer(1, "Ann", ())
        assert store.next_question("Ann") is None
        store.answer(1, "Ben", [1, 0])
        assert store.counts().open == 1
        assert store.progress("Ann") == (0, 1, 0)
        assert store.progress("Cem") == (0, 0, 1)
        store.answer(1, "Cem", [0, 0])
        assert store.progress("Dan").left == 0
        seen = store.counts()
        assert (seen.answers, seen.ties, seen.skips, seen.open) == (3, 1, 1, 0)
        assert seen.by == {"Ann": 1, "Ben": 1, "Cem": 1}
        (pair,) = pairs_in(store.answers())  # of a tie and a skip comes none
        assert pair.info["annotator"] == "Ben"


def test_undo_gives_the_last_question_again_and_stays_on_record(tmp_path: Path) -> None:
    with opened(tmp_path, asking("a"), asking("b")) as store:
        assert store.undo("Ann") is None
        store.answer(1, "Ann", [1, 0])
        store.answer(2, "Ann", [1, 0])
        with pytest.raises(UserError, match="Ann has answered question 2: undo that answer first"):
            store.answer(2, "Ann", [0, 1])
        back = store.undo("Ann")
        again = store.next_question("Ann")
        assert back is not None
        assert again is not None
        assert (back.number, again.number) == (2, 2)
        store.answer(2, "Ann", [0, 1])
        assert [a.values for a in store.answers()] == [(1, 0), (0, 1)]
        assert store.counts().undone == 1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1.0], "has 2 replies, and the answer 1 numbers: give one for each"),
        ([1.0, NAN], "must be finite"),
        ([float("inf"), 0.0], "must be finite"),
    ],
)
def test_answers_that_do_not_fit_are_refused(
    values: Sequence[float], says: str, tmp_path: Path
) -> None:
    with opened(tmp_path, asking("a")) as store:
        with pytest.raises(UserError, match=says):
            store.answer(1, "Ann", values)
        with pytest.raises(UserError, match="an annotator needs a name"):
            store.answer(1, " ", [1, 0])
        with pytest.raises(UserError, match="has no question 7"):
            store.answer(7, "Ann", [1, 0])
        assert store.counts().answers == 0


def test_what_cannot_be_answered_is_not_asked(tmp_path: Path) -> None:
    for texts, kind, says in (
        (("a", "a"), "pair", "two replies are the same"),
        (("a", "b", "c"), "pair", "a pair has from 2 to 2 replies, not 3"),
        (("a",), "ranking", "a ranking has from 2 to 99"),
        (("a", "b"), "score", "a question is one of pair, rating, ranking, not 'score'"),
    ):
        with pytest.raises(UserError, match=says):
            asking("p", *texts, kind=kind)  # type: ignore[arg-type]
    rating = Proposal(Problem("p", prompt="p"), (Candidate("a"),), "rating", low=1, high=5)
    with opened(tmp_path, rating) as store, pytest.raises(UserError, match="lies from 1 to 5"):
        store.answer(1, "Ann", [6])


def test_text_that_is_none_is_kept(tmp_path: Path) -> None:
    """Half surrogate pairs, NUL, other scripts: as JSON they come back as they were."""
    odd = ("\ud83d half", "nul \x00 and \u202e", "日本")
    message = {"role": "user", "content": "\udc80?"}
    asked = Proposal(Problem("\udc80", messages=(message,)), tuple(map(Candidate, odd)), "ranking")
    with opened(tmp_path, asked) as store:
        question = store.question(1)
        assert {one.text for one in question.candidates} == set(odd)
        assert question.problem.messages == (message,)
        store.answer(1, "Ann \udc80", [0, 1, 2], "because \udc80")
        (answer,) = store.answers()
        assert answer.said.why == "because ?"


def test_a_batch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        good = (asking("a"), Said("Ann", (1.0, 0.0)))
        with pytest.raises(UserError, match="finite"):
            store.record([good, (asking("b"), Said("Ann", (1.0, NAN)))])
        assert (store.counts().answers, store.counts().questions) == (0, {})
        assert store.record([good, good]) == (1, 1)


WRITER = """
import sys
from upslope.preferences.asked import Candidate, Proposal
from upslope.preferences.store import Store
from upslope.types import Problem
path, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Store(path, create=True) as store:
    for i in range(count):
        asked = Problem(str(i), prompt=f"{i}?")
        store.propose([Proposal(asked, (Candidate("yes"), Candidate("no")), wanted=9)])
        store.answer(store.next_question(who).number, who, [1, 0])
        print(i, flush=True)
"""


def writer(path: Path, who: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", WRITER, str(path), who, str(count)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Three processes make the file, ask the same and answer it, each under its name."""
    path = tmp_path / "prefs.sqlite"
    some = [writer(path, who, 30) for who in ("Ann", "Ben", "Cem")]
    for one in some:
        _, error = one.communicate(timeout=60)
        assert (one.returncode, error) == (0, "")
    with Store(path) as store:
        seen = store.counts()
        assert seen.by == {"Ann": 30, "Ben": 30, "Cem": 30}
        assert seen.questions == {"pair": 30}


def test_a_kill_loses_no_answer_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "prefs.sqlite"
    one = writer(path, "Ann", 100_000)
    assert one.stdout is not None
    kept = [one.stdout.readline() for _ in range(40)]
    one.send_signal(signal.SIGKILL)
    kept += one.communicate(timeout=60)[0].splitlines(keepends=True)
    with Store(path) as store:
        found = store.counts().answers
        assert len([line for line in kept if line.endswith("\n")]) <= found <= len(kept) + 1
        assert store.propose([asking("after")]) == 1
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    plain.close()


def test_other_files_are_no_stores(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no store of preferences"):
        Store(tmp_path / "none.sqlite")
    with pytest.raises(UserError, match=r"its name ends in \.sqlite"):
        Store(tmp_path / "pairs.jsonl", create=True)
    with pytest.raises(UserError, match="there is no folder"):
        Store(tmp_path / "nowhere" / "a.sqlite", create=True)
    (tmp_path / "text.sqlite").write_text("not a database at all" * 100, encoding="utf-8")
    with pytest.raises(UserError, match="file is not a database"):
        Store(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    with pytest.raises(UserError, match="another program's database: name another file"):
        Store(tmp_path / "other.sqlite")
    assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)  # left as it was
    other.close()
    opened(tmp_path).close()
    newer = sqlite3.connect(tmp_path / "prefs.sqlite")
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    with pytest.raises(UserError, match="written by a newer Upslope"):
        Store(tmp_path / "prefs.sqlite")


def test_a_damaged_store_is_one_sentence(tmp_path: Path) -> None:
    opened(tmp_path, *(asking(str(i)) for i in range(200))).close()
    path = tmp_path / "prefs.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"prefs\.sqlite failed \(.*malformed.*\): "):  # noqa: SIM117
        with Store(path) as store:
            store.next_question("Ann")


# Agreement.


@pytest.mark.parametrize(
    ("ratings", "metric", "value"),
    [
        (PUBLISHED, "nominal", 0.743),
        (PUBLISHED, "ordinal", 0.815),
        (PUBLISHED, "interval", 0.849),
        (BINARY, "nominal", 0.095),
        (NOMINAL, "nominal", 0.692),
    ],
)
def test_alpha_is_the_published_one(ratings: Any, metric: Any, value: float) -> None:
    found = alpha(np.array(ratings, float), metric, draws=200)
    assert found is not None
    assert found.alpha.mean == pytest.approx(value, abs=5e-4)
    assert found.alpha.low < found.alpha.mean < found.alpha.high
    if ratings is PUBLISHED:
        assert (found.units, found.values) == (11, 40)  # the last unit has one value


def test_alpha_of_full_agreement_of_none_and_of_nothing() -> None:
    same = np.array([[1.0, 2, 3, 1], [1, 2, 3, 1]])
    found = alpha(same, "ordinal")
    assert found is not None
    assert found.alpha == (1.0, 1.0, 1.0)
    # Two coders who always differ on two values: Do = 1, De = 2 * 2 * 2 / (4 * 3) = 2/3.
    apart = alpha(np.array([[0.0, 1], [1, 0]]), "nominal")
    assert apart is not None
    assert apart.alpha.mean == pytest.approx(-0.5)
    for nothing in ([[1.0, NAN], [NAN, 2.0]], [[1.0, 1.0], [1.0, 1.0]], [[NAN, NAN]]):
        assert alpha(np.array(nothing), "interval") is None


def test_alpha_knows_no_coders_names_and_interval_no_scale() -> None:
    given = np.array(PUBLISHED, float)
    found = alpha(given, "interval")
    assert found == alpha(given[::-1], "interval")
    moved = alpha(3 * given - 7, "interval")
    assert found is not None
    assert moved is not None
    assert moved.alpha.mean == pytest.approx(found.alpha.mean)
    stretched = alpha(given**3, "ordinal")
    ordinal = alpha(given, "ordinal")
    assert ordinal is not None
    assert stretched is not None
    assert stretched.alpha.mean == pytest.approx(ordinal.alpha.mean)


def test_units_of_one_question_are_drawn_together() -> None:
    """Each unit said ten times over is no more evidence, where it is known to be one question."""
    once = np.array(PUBLISHED, float)
    often = np.repeat(once, 10, axis=1)
    of = np.repeat(np.arange(12), 10)
    alone, told, untold = (
        alpha(once, "nominal"),
        alpha(often, "nominal", of=of),
        alpha(often, "nominal"),
    )
    widths = [one.alpha.high - one.alpha.low for one in (alone, told, untold) if one is not None]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] < 0.5 * widths[1]


def test_who_differs_from_the_rest_is_found() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 200).astype(float)
    noisy = np.where(draw.random(200) < 0.5, truth, 1 - truth)
    by = with_rest(np.stack([truth, truth, noisy, np.full(200, NAN)]), "nominal")
    assert by[0] == by[1] > 0.4
    assert abs(by[2]) < 0.2
    assert np.isnan(by[3])


def test_agreement_of_a_store(tmp_path: Path) -> None:
    """Ten pairs: two agree on all, the third says the opposite."""
    with opened(tmp_path, *(asking(str(i), wanted=3) for i in range(10))) as store:
        for question in [*store.questions()]:
            right = scores(question, yes=1, no=0)
            for who in ("Ann", "Ben", "Cem"):
                store.answer(question.number, who, right if who != "Cem" else right[::-1])
        (found,) = agreements([*store.answers()])
        # 30 values, yes first or no first; of 3 pairs in a unit 2 differ: Do = 2/3.
        first = sum(q.candidates[0].text == "yes" for q in store.questions())
        ones = 2 * first + (10 - first)
        expected = 2 * ones * (30 - ones) / (30 * 29)
        assert found.alpha.alpha.mean == pytest.approx(1 - (2 / 3) / expected)
        assert found.by["Ann"] == found.by["Ben"] > found.by["Cem"]
        said = "\n".join(lines(store, last=1))
    assert "asked: 10 pairs; 0 want more answers" in said
    assert "Cem: 10, agrees with the rest" in said
    assert "agreement on comparisons: alpha -0.3" in said
    assert "0: 'no'" in said or "1: 'no'" in said


def test_a_majority_is_of_all_questions_about_the_same_two(tmp_path: Path) -> None:
    asked = [
        asking("a", wanted=9),
        asking("a", "yes", "no", "hm", kind="ranking"),
        asking("b", wanted=2),
    ]
    with opened(tmp_path, *asked) as store:
        for who, better in (("Ann", "yes"), ("Ben", "no"), ("Dan", "")):
            of = {"yes": 0.0, "no": 0.0} | ({better: 1.0} if better else {})
            store.answer(1, who, scores(store.question(1), **of))
        store.answer(2, "Cem", scores(store.question(2), yes=2, no=1, hm=0))
        store.answer(3, "Ann", [1, 0])
        store.answer(3, "Ben", [0, 1])
        found = [*pairs_in(store.answers(), Selection(votes="majority"))]
        by = {(p.problem.id, p.chosen, p.rejected): p.info for p in found}
        # b has a vote for each side and gives nothing; Dan's tie is no vote.
        assert set(by) == {("a", "yes", "no"), ("a", "yes", "hm"), ("a", "no", "hm")}
        info = by["a", "yes", "no"]
        assert (info["annotator"], info["votes"], info["agreed"]) == ("majority", 3, 2 / 3)
        each = [*pairs_in(store.answers())]
        assert len(each) == 2 + 3 + 2
        some = pairs_in(store.answers(), Selection(annotators=("Ann",), kinds=("pair",)))
        assert [p.problem.id for p in some] == ["a", "b"]


def test_ratings_become_pairs_with_margins(tmp_path: Path) -> None:
    rated = asking("a", "x", "y", kind="rating", wanted=2)
    with opened(tmp_path, rated) as store:
        store.answer(1, "Ann", scores(store.question(1), x=5, y=2))
        store.answer(1, "Ben", scores(store.question(1), x=4, y=3))
        assert [p.info["margin"] for p in pairs_in(store.answers())] == [3, 1]
        (pair,) = pairs_in(store.answers(), Selection(votes="majority"))
        assert (pair.chosen, pair.info["margin"], pair.info["agreed"]) == ("x", 2, 1)
        (found,) = agreements([*store.answers()])
        # Values 5 2 and 4 3: Do = (1 + 1) / 2; De = 2 * (9+1+4+4+1+1) / 12.
        assert found.of == "ratings"
        assert found.alpha.alpha.mean == pytest.approx(1 - 1 / (2 * 20 / 12))
