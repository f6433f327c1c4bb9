"""Preferences in files: every form read and written, what is refused; simulated annotators; the
places that take a store for a file."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from upslope.components import build
from upslope.demonstrations import read_demonstrations
from upslope.envs.arithmetic import Arithmetic
from upslope.envs.datasets import read_rows
from upslope.envs.notes import Notes, gold
from upslope.preferences.annotators import Annotator
from upslope.preferences.asked import Candidate, Proposal, Said
from upslope.preferences.gathered import from_env, from_file, labelled
from upslope.preferences.moved import pairs_of, read_into, write_from, write_rows
from upslope.preferences.pair import Pair, Selection
from upslope.preferences.recipe import Pairs, read_recipe
from upslope.preferences.simulated import annotate
from upslope.preferences.store import Store
from upslope.provenance import RecordedSettings
from upslope.rewards.learned import Learned
from upslope.types import Problem, UserError

USER, YES, NO = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes"},
    {"role": "assistant", "content": "No"},
)
ROWS = [
    {"prompt": "1+1=", "chosen": "2", "rejected": "3", "annotator": "Ann", "why": "sum", "at": 60},
    {"chosen": [USER, YES], "rejected": [USER, NO], "topic": "greeting"},
    {"prompt": [USER], "chosen": [YES, USER, NO], "rejected": [YES, USER, YES]},
    {"chosen": "2+2= 4", "rejected": "2+2= 5"},
    {"chosen": "\n\nHuman: Oh?\n\nAssistant: Ah", "rejected": "\n\nHuman: Oh?\n\nAssistant:"},
]
WANT = [
    ("1+1=", "2", "3"),
    ("Hi", "Yes", "No"),
    ("Hi/Yes/Hi", "No", "Yes"),
    ("2+2=", " 4", " 5"),
    ("Oh?", "Ah", ""),
]


def write(path: Path, rows: Sequence[Any]) -> Path:
    write_rows(path, rows)
    return path


def told(pairs: Any) -> list[tuple[str, str, str]]:
    """What was asked, chosen and rejected."""
    words = [p.problem.prompt or "/".join(m["content"] for m in p.problem.messages) for p in pairs]
    return [(said, p.chosen, p.rejected) for said, p in zip(words, pairs, strict=True)]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz"])
def test_every_form_is_read_with_who_when_and_why(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"pairs.{kind}", ROWS)
    assert told([*pairs_of(path)]) == WANT
    with Store(tmp_path / "p.sqlite", create=True) as store:
        moved = read_into(store, path, "a survey")
        assert (moved.done, moved.known, moved.left_out) == (5, 0, {})
        answers = [*store.answers()]
        assert answers[0].said._replace(values=()) == Said("Ann", (), "sum", 60.0, {})
        assert answers[1].said.annotator == "a survey"
        again = read_into(store, path, "a survey")
        assert (again.done, again.known) == (0, 5)
        assert [*again.lines("answers read")][1].startswith("5 were known")
    found = [*pairs_of(tmp_path / "p.sqlite")]
    assert told(found) == WANT
    assert found[1].info == {"topic": "greeting", "annotator": "a survey"}


@pytest.mark.parametrize("form", ["hf", "trl", "answers"])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_what_is_written_is_read_back(form: str, kind: str, tmp_path: Path) -> None:
    """Messages alone, for a column of Parquet has one type."""
    rows = [
        *ROWS[1:3],
        {**ROWS[1], "chosen": [USER, NO], "rejected": [USER, YES], "annotator": "B"},
    ]
    out = tmp_path / f"out.{kind}"
    with Store(tmp_path / "p.sqlite", create=True) as store:
        read_into(store, write(tmp_path / "in.jsonl", rows), "a survey")
        moved = write_from(store, out, form)
        assert (moved.done, moved.left_out) == (3, {})
        whole = [*store.answers()]
    with Store(tmp_path / "again.sqlite", create=True) as store:
        assert read_into(store, out, "nobody").done == 3
        for one, other in zip(whole, store.answers(), strict=True):
            assert one.said == other.said
            assert one.question.candidates == other.question.candidates
            assert one.question.problem.messages == other.question.problem.messages
    if form == "trl":
        assert read_rows(out)[0].fields["prompt"] == [USER]


def test_transcripts_are_written_where_they_can_be(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [ROWS[4], ROWS[0], {"prompt": [system, USER], "chosen": [YES], "rejected": [NO]}]
    with Store(tmp_path / "p.sqlite", create=True) as store:
        read_into(store, write(tmp_path / "in.jsonl", rows), "x")
        moved = write_from(store, tmp_path / "hh.jsonl.gz", "hh")
    (row,) = map(json.loads, gzip.decompress((tmp_path / "hh.jsonl.gz").read_bytes()).splitlines())
    assert row == {
        "chosen": "\n\nHuman: Oh?\n\nAssistant: Ah",
        "rejected": "\n\nHuman: Oh?\n\nAssistant: ",
    }
    assert moved.left_out == {"no dialogue of Human and Assistant in turn, as hh-rlhf has them": 2}


def test_ties_skips_ratings_and_rankings_are_kept_in_the_own_form(tmp_path: Path) -> None:
    asked = Problem("p", prompt="p?", stop=("\n",))
    replies = tuple(Candidate(text, "run 3") for text in ("a", "b", "c"))
    given = [
        (Proposal(asked, replies[:2]), Said("Ann", (0.0, 0.0), "same", 5.0)),
        (Proposal(asked, replies[1:]), Said("Ann", (), "", 6.0)),
        (Proposal(asked, replies, "ranking", "why", 3), Said("Ben", (2.0, 1.0, 0.0), "", 7.0)),
        (Proposal(asked, replies, "rating", low=0, high=10), Said("Ben", (9.0, 9.0, 1.5), "", 8.0)),
    ]
    with Store(tmp_path / "p.sqlite", create=True) as store:
        store.record(given)
        write_from(store, tmp_path / "all.jsonl", "answers")
        moved = write_from(store, tmp_path / "pairs.jsonl", "hf")
        assert moved.done == 3 + 2
        assert moved.left_out == {"a tie, or one reply alone": 1, "skipped": 1}
        whole = [*store.answers()]
    with Store(tmp_path / "again.sqlite", create=True) as store:
        read_into(store, tmp_path / "all.jsonl", "x")
        assert [*store.answers()] == whole
    rows = [row.fields for row in read_rows(tmp_path / "pairs.jsonl")]
    assert {"source_chosen": "run 3", "annotator": "Ben", "stop": ["\n"]}.items() <= rows[0].items()
    assert rows[-1]["margin"] == 7.5


def test_rows_of_replies_alone_are_questions(tmp_path: Path) -> None:
    rows = [{"prompt": "p?", "replies": ["a", "b", "c"], "kind": "ranking", "wanted": 2}]
    with Store(tmp_path / "p.sqlite", create=True) as store:
        moved = read_into(store, write(tmp_path / "in.jsonl", rows), "x")
        assert (moved.done, moved.asked) == (0, 1)
        question = store.next_question("Ann")
        assert question is not None
        assert (question.kind, question.wanted, len(question.candidates)) == ("ranking", 2, 3)


PAIR = {"prompt": "p?", "chosen": "a", "rejected": "b"}
ANSWER = {"prompt": "p?", "replies": ["a", "b"], "values": [1, 0]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**PAIR, "rejected": "a"}, "chosen and rejected are the same, so that neither wins"),
        ({"prompt": "p?", "chosen": "a"}, 'a pair needs "rejected", a reply or its messages'),
        ({"prompt": "p?", "choosen": "a", "rejected": "b"}, "did you mean the 'choosen'"),
        ({**PAIR, "score_chosen": 1, "score_rejected": 1}, "without a winner: 1 is not above 1"),
        ({**PAIR, "score_chosen": "x", "score_rejected": 1}, '"score_chosen" must be a number'),
        ({**PAIR, "at": "yesterday"}, '"at" must be a time such as'),
        ({**PAIR, "chosen": [YES]}, "must both be text, or both be messages"),
        ({"chosen": "x", "rejected": "y"}, 'give "prompt", or let "chosen" and "rejected" begin'),
        ({**ANSWER, "values": [1]}, '"values" must have a number for each of the 2 "replies"'),
        ({**ANSWER, "values": [1, math.nan]}, '"values" must have a number for each'),
        ({**ANSWER, "replies": ["a", 3]}, '"replies" and "sources" must be lists of texts'),
        ({**ANSWER, "replies": ["a", "a"]}, "two replies are the same"),
        ({**ANSWER, "kind": "duel"}, '"kind" is one of pair, rating, ranking'),
        ({**ANSWER, "winner": 1}, "'winner' is no column of an answer: put what is yours"),
        ({**ANSWER, "valeus": 1}, "'valeus' is no column of an answer: did you mean 'values'?"),
        ({**ANSWER, "kind": "rating", "values": [9, 1]}, '"values" of a rating lie from 1 to 5'),
        ({**ANSWER, "kind": "rating", "low": 5}, "wanted is at least 1, and low is below high"),
        ({**ANSWER, "wanted": 1.5}, '"wanted" must be a whole number'),
        ({"replies": ["a", "b"]}, 'give either "prompt" or "messages"'),
    ],
)
def test_a_row_that_cannot_be_stops_the_import(row: Any, says: str, tmp_path: Path) -> None:
    """In one sentence with file and line, before anything is kept; or it is counted."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (PAIR, row)), encoding="utf-8")
    with Store(tmp_path / "p.sqlite", create=True) as store:
        with pytest.raises(UserError, match=r"in\.jsonl, line 2: .*nothing was imported") as error:
            read_into(store, path, "x")
        assert says in str(error.value)
        assert "\n" not in str(error.value)
        assert store.counts().answers == 0
        moved = read_into(store, path, "x", lenient=True)
        assert (moved.done, [*moved.left_out.values()]) == (1, [1])
        assert says in "".join(moved.left_out)
        assert moved.example.endswith("in.jsonl, line 2")
        path.write_text(json.dumps(row), encoding="utf-8")
        with pytest.raises(UserError, match="has no answer"):
            read_into(store, path, "x", lenient=True)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    cut = gzip.compress(b'{"prompt": "p"}\n' * 100)[:-20]
    for name, data, says in (
        ("cut.jsonl.gz", cut, "is not a whole gzip file"),
        ("none.jsonl.gz", b"text", "is not a whole gzip file"),
        ("a.csv", b"a,b", "is neither a .jsonl nor a .parquet file, nor a .jsonl.gz"),
        ("a.csv.gz", b"a,b", "is neither a .jsonl"),
        ("a.parquet.gz", b"", "is neither a .jsonl"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=says):
            read_rows(tmp_path / name)
    with Store(tmp_path / "p.sqlite", create=True) as store:
        with pytest.raises(UserError, match="has nothing to write: no answers"):
            write_from(store, tmp_path / "out.jsonl", "hf")
        read_into(store, write(tmp_path / "in.jsonl", [PAIR, ROWS[1]]), "x")
        for out, form, says in (
            ("out.csv", "hf", r"is none of \*\.jsonl, \*\.jsonl\.gz, \*\.parquet: name it so"),
            ("out.jsonl", "csv", "--form is one of hf, trl, hh and answers, not 'csv'"),
            ("nowhere/out.jsonl", "hf", "could not be written"),
            ("out.parquet", "hf", "cannot hold these columns .*write .jsonl in its place"),
        ):
            with pytest.raises(UserError, match=says):
                write_from(store, tmp_path / out, form)
        with pytest.raises(UserError, match="writes every answer: leave the selection out"):
            write_from(store, tmp_path / "o.jsonl", "answers", Selection(votes="majority"))


# A store where a file of pairs is read.


@pytest.fixture
def voted(tmp_path: Path) -> Path:
    """120 questions: Ann and Cem prefer the first, Ben the other one."""
    path = tmp_path / "p.sqlite"
    given = []
    for i in range(120):
        asked = Problem(str(i), prompt=f"{i}:")
        proposal = Proposal(asked, (Candidate("so!!"), Candidate("so.")))
        for who, values in (("Ann", (1.0, 0.0)), ("Ben", (0.0, 1.0)), ("Cem", (1.0, 0.0))):
            given.append((proposal, Said(who, values)))
    with Store(path, create=True) as store:
        store.record(given)
    return path


def test_a_reward_models_recipe_reads_a_store(voted: Path, tmp_path: Path) -> None:
    file = tmp_path / "judge.toml"
    file.write_text(
        f'model = "ladder:0.1m"\nout = "judge"\npairs.path = "{voted}"\n'
        "pairs.held_out = 0.4\npairs.train = 0\n"
        'pairs.answers = {annotators = ["Ben"], votes = "each"}\n',
        encoding="utf-8",
    )
    recipe = read_recipe(file)
    parts = from_file(recipe.pairs, 0)
    whole = [*parts.train, *parts.validation, *parts.test]
    assert len(whole) == 120
    assert {pair.chosen for pair in whole} == {"so."}
    most = read_recipe(file, ["pairs.answers.annotators=[]", "pairs.answers.votes=majority"])
    found = from_file(most.pairs, 0)
    assert {p.chosen for p in (*found.train, *found.validation, *found.test)} == {"so!!"}
    for change, says in (
        ("pairs.answers.votes=most", "pairs.answers.votes"),
        ("pairs.answers.kinds=['duel']", "pairs.answers.kinds"),
        ("pairs.answers.who=['Ann']", "pairs.answers.who"),
        ("pairs.noise=0.1", "pairs.noise is of an env's replies"),
    ):
        with pytest.raises(UserError, match=says):
            read_recipe(file, [change])


def test_what_a_selection_lacks_is_said(voted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nobody called 'Dan' has answered .* Ann, Ben, Cem"):
        pairs_of(voted, Selection(annotators=("Dan",)))
    with pytest.raises(UserError, match="has no pairs so selected: label more, or select less"):
        pairs_of(voted, Selection(kinds=("rating",)))
    file = write(tmp_path / "in.jsonl", [PAIR])
    with pytest.raises(UserError, match=r"select from a store, and .* is a file: import it"):
        pairs_of(file, Selection(votes="majority"))
    with pytest.raises(UserError, match=r"source\.path: annotators, kinds and votes select"):
        read_demonstrations(file, which=Selection(votes="majority"))


def test_recorded_pairs_and_a_learned_reward_read_a_store(voted: Path) -> None:
    table = {"path": str(voted), "answers": {"votes": "majority", "annotators": ["Ann", "Cem"]}}
    settings = build(RecordedSettings, table, "source")
    shown = read_demonstrations(Path(settings.path), which=settings.answers)
    assert len(shown) == 240
    assert [(one.reply, one.reward) for one in shown[:2]] == [("so!!", 1.0), ("so.", 0.0)]
    assert len({one.group for one in shown}) == 120
    learned = build(Learned, {"labels": str(voted), "answers": {"annotators": ["Ben"]}}, "reward")
    assert {p.chosen for p in pairs_of(learned.labels, learned.answers)} == {"so."}
    with pytest.raises(UserError, match="flips and noise are of the env's answers"):
        build(Learned, {"labels": str(voted), "noise": 0.5}, "reward")


# Simulated annotators.


def test_an_annotator_is_bradley_terry(tmp_path: Path) -> None:
    """At temperature 0.5 the better by 0.5 wins with the chance sigmoid(1), and flips mix it."""

    def wins(by: Annotator) -> float:
        said = [by.compares((str(i),), ("a", "b"), (1.0, 0.5)) for i in range(4000)]
        return sum(a > b for a, b in said) / len(said)

    chance = 1 / (1 + math.exp(-1))
    assert wins(Annotator("x", temperature=0.5)) == pytest.approx(chance, abs=0.025)
    assert wins(Annotator("x", flips=0.25)) == pytest.approx(0.75, abs=0.025)
    mixed = 0.8 * chance + 0.2 * (1 - chance)
    assert wins(Annotator("x", temperature=0.5, flips=0.2)) == pytest.approx(mixed, abs=0.025)
    assert wins(Annotator("x")) == 1.0
    # Of three, Plackett and Luce: the best is first with the chance e^2 / (e^2 + e + 1).
    by = Annotator("x", temperature=1.0)
    first = [by.compares((str(i),), "abc", (2.0, 1.0, 0.0)) for i in range(4000)]
    share = sum(a == max(s) for s in first for a in s[:1]) / 4000
    assert share == pytest.approx(math.e**2 / (math.e**2 + math.e + 1), abs=0.025)


def test_an_annotator_repeats_itself_and_has_habits() -> None:
    by, other = Annotator("x", temperature=1.0), Annotator("y", temperature=1.0)
    said = [by.compares((str(i),), ("a", "b"), (1.0, 0.5)) for i in range(50)]
    assert said == [by.compares((str(i),), ("a", "b"), (1.0, 0.5)) for i in range(50)]
    assert said != [other.compares((str(i),), ("a", "b"), (1.0, 0.5)) for i in range(50)]
    # Whatever stands first: the same replies in another order get the same answers.
    turned = [by.compares((str(i),), ("b", "a"), (0.5, 1.0)) for i in range(50)]
    assert turned == [one[::-1] for one in said]
    assert Annotator("x", ties=0.6).compares(("q",), ("a", "b"), (1.0, 0.5)) == [0.0, 0.0]
    assert Annotator("x", length=0.2).compares(("q",), ("a", "bbbb"), (1.0, 0.5)) == [-1.0, 1.0]
    skipped = [
        Annotator("x", skips=0.3).compares((str(i),), ("a", "b"), (1, 0)) for i in range(500)
    ]
    assert skipped.count([]) == pytest.approx(150, abs=35)
    assert Annotator("x").rates(("q",), "abc", (0.0, 0.5, 2.0), 1, 5) == [1, 3, 5]
    assert Annotator("x", flips=1.0).rates(("q",), "ab", (0.0, 1.0), 1, 5) == [5, 1]
    for wrong in ({"flips": 1.5}, {"skips": -0.1}, {"temperature": -1}, {"ties": math.nan}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Annotator("x", **wrong)


def test_recipes_and_the_command_label_alike() -> None:
    """One annotator's noise: pairs near in gold are turned around more often than others."""
    env = Notes(train=1200, test=60)
    noisy = from_env(env, "notes", Pairs(train=600, noise=0.2), 0)
    assert all(p.info["reward_chosen"] > p.info["reward_rejected"] for p in noisy.test)
    gaps = [p.info["reward_chosen"] - p.info["reward_rejected"] for p in noisy.train]
    near = [gap < 0 for gap in gaps if abs(gap) < 0.15]
    far = [gap < 0 for gap in gaps if abs(gap) > 0.5]
    assert min(len(near), len(far)) > 50
    assert sum(near) / len(near) == pytest.approx(0.42, abs=0.12)  # sigmoid(-0.3) and nearer
    assert sum(far) / len(far) < 0.1
    expected = sum(1 / (1 + math.exp(abs(gap) / 0.2)) for gap in gaps)
    assert sum(gap < 0 for gap in gaps) == pytest.approx(expected, abs=3.5 * math.sqrt(expected))


def test_labels_are_those_of_the_annotator() -> None:
    pairs = [Pair(Problem(str(i), prompt="p"), "a", "b", {"marks_chosen": 2}) for i in range(400)]
    found = [*labelled(pairs, Annotator(flips=0.3, seed=4))]
    turned = [p for p in found if p.chosen == "b"]
    assert len(found) == 400
    assert len(turned) == pytest.approx(120, abs=35)
    assert all(p.info == {"marks_rejected": 2, "flipped": "yes"} for p in turned)
    assert len([*labelled(pairs, Annotator(skips=0.5))]) == pytest.approx(200, abs=40)


def test_a_simulated_annotator_answers_a_store(tmp_path: Path) -> None:
    env, asked = Notes(train=40, test=10), list[Proposal]()
    by = {problem.id: problem for problem in env.problems("train")}
    for problem, text in env.demonstrations("train"):
        if problem.id in by and text != problem.solution:
            # As a run has written it: what was asked is a message.
            said = replace(
                problem, prompt="", messages=({"role": "raw", "content": problem.prompt},)
            )
            replies = (Candidate(text), Candidate(problem.solution))
            asked += [Proposal(said, replies), Proposal(problem, replies, "rating", low=0, high=10)]
    with Store(tmp_path / "p.sqlite", create=True) as store:
        store.propose(asked)
        seen = annotate(store, env, Annotator("Ann"), most=30)
        assert (seen.answered, seen.skipped, seen.invalid) == (30, 0, 0)
        annotate(store, env, Annotator("Ann"))
        assert store.progress("Ann").left == 0
        for answer in store.answers():
            topic = by[answer.question.problem.id].answer
            worth = [gold(topic, one.text).total for one in answer.question.candidates]
            best = max(worth)
            assert answer.values[worth.index(best)] == max(answer.values)
            if answer.question.kind == "rating":
                assert list(answer.values) == [round(10 * one) for one in worth]
        store.propose([replace(asked[0], again=1)])
        with pytest.raises(UserError, match=r"about .* which Arithmetic does not know: name"):
            annotate(store, Arithmetic(), Annotator("Ben"), most=1)
        with pytest.raises(UserError, match="needs a name: give --annotator"):
            annotate(store, env, Annotator())
