"""What is asked next: acquisitions by hand, proposals, the commands, and the terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from upslope.cli import app
from upslope.envs.arithmetic import Arithmetic
from upslope.envs.notes import Notes
from upslope.models.load import load
from upslope.models.reward_folder import save_reward_model
from upslope.models.reward_model import RewardModel, reward_model_of
from upslope.preferences.acquisition import (
    cover_of,
    disagreement,
    entropy,
    informative,
    spread,
    uncertainty,
)
from upslope.preferences.asked import Candidate, Proposal
from upslope.preferences.candidates import Replies, Sampled, candidates, replies_of_env
from upslope.preferences.proposing import Asking, choose, comparisons, propose
from upslope.preferences.store import Store
from upslope.preferences.terminal import ask, understood
from upslope.types import Problem, UserError

SOURCE = Path(__file__).parent.parent / "src"


def test_entropy_and_disagreement_by_hand() -> None:
    sure, half = 60.0, 0.0
    # Members who are each sure of the other side disagree by log 2; who do not know, by nothing.
    ahead = np.array([[sure, half, sure, np.log(3)], [-sure, half, sure, np.log(3)]])
    want = [np.log(2), np.log(2), 0, entropy(np.array(0.75))]
    assert uncertainty(ahead) == pytest.approx(want, abs=1e-9)
    assert disagreement(ahead) == pytest.approx([np.log(2), 0, 0, 0], abs=1e-9)
    assert entropy(np.array([0.0, 1.0])) == pytest.approx([0, 0], abs=1e-9)
    # Chances 0.9 and 0.5: H(0.7) - (H(0.9) + H(0.5)) / 2.
    mixed = disagreement(np.array([[np.log(9)], [0.0]]))
    assert mixed == pytest.approx([0.610864 - (0.325083 + 0.693147) / 2], abs=1e-6)


def test_a_spread_follows_what_questions_are_worth() -> None:
    """Of worth 3 to 1 the first is drawn first three times in four, and none is drawn twice."""
    first = [spread(np.array([3.0, 1.0]), 1, seed)[0] for seed in range(2000)]
    assert first.count(0) == pytest.approx(1500, abs=80)
    drawn = spread(np.linspace(0, 1, 50), 50, 1)
    assert sorted(drawn) == [*range(50)]
    assert drawn == spread(np.linspace(0, 1, 50), 50, 1)
    assert drawn[-1] == 0  # worth nothing, asked last


def test_information_is_the_determinants() -> None:
    """Greedy gains are those of the log determinant itself; what is alike is not asked twice."""
    draw = np.random.default_rng(0)
    apart, weight = draw.normal(size=(30, 4)), draw.uniform(0.05, 0.25, 30)
    apart[7] = apart[3] * 1.01  # nearly the same comparison
    past, told = draw.normal(size=(5, 4)), np.full(5, 0.25)
    cover = cover_of(past, told, 0.5)
    precision = 0.5 * np.eye(4) + sum(0.25 * np.outer(x, x) for x in past)
    assert cover == pytest.approx(np.linalg.inv(precision))
    chosen = informative(cover, apart, weight, np.arange(30), 6)
    for place, gain in chosen:
        every = []
        for x, w in zip(apart, weight, strict=True):
            after = precision + w * np.outer(x, x)
            every.append(np.linalg.slogdet(after)[1] - np.linalg.slogdet(precision)[1])
        assert gain == pytest.approx(every[place])
        assert place == int(np.argmax([-1 if i in done(chosen, place) else e
                                       for i, e in enumerate(every)]))  # fmt: skip
        precision = precision + weight[place] * np.outer(apart[place], apart[place])
    assert len({place for place, _ in chosen}) == 6
    assert len(informative(cover, apart, weight, np.arange(30), 99)) == 30
    # A question of several comparisons is worth what they are together.
    both = informative(cover, apart[:4], weight[:4], np.array([0, 0, 1, 1]), 1)
    gains = [np.log1p(w * x @ cover @ x) for x, w in zip(apart[:4], weight[:4], strict=True)]
    assert both[0][1] == pytest.approx(max(sum(gains[:2]), sum(gains[2:])))


def done(chosen: list[tuple[int, float]], place: int) -> list[int]:
    places = [one for one, _ in chosen]
    return places[: places.index(place)]


def learned(*, weight: float = 0.1, seed: int = 0) -> RewardModel:
    model = reward_model_of(load("ladder:0.1m", seed), ["reward"])
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.head.weight, std=weight)
    return model


def questions(count: int) -> list[Replies]:
    shown = {}
    for problem, text in Notes(replies=3, train=count, test=10).demonstrations("train"):
        shown.setdefault(problem.id, (problem, []))[1].append(text)
    return [Replies(p, tuple(map(Candidate, dict.fromkeys(texts)))) for p, texts in shown.values()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        save_reward_model(learned(seed=seed), tmp_path / f"judge-{seed}")
    return tmp_path


def test_proposals_are_the_most_uncertain_and_never_asked_twice(folder: Path) -> None:
    pool = questions(20)
    with Store("p.sqlite", create=True) as store:
        asking = Asking(10, "uncertainty", ("judge-0",))
        seen = propose(store, pool, asking)
        possible = sum(len(r.candidates) * (len(r.candidates) - 1) // 2 for r in pool)
        assert (seen.new, seen.possible, seen.long) == (10, possible, 0)
        again = propose(store, pool, asking)
        assert (again.new, again.possible) == (10, possible - 10)
        asked = [*store.questions()]
        assert all(one.reason.startswith("uncertainty 0.") for one in asked)
        propose(store, pool, Asking(999, "random"))
        with pytest.raises(UserError, match="nothing is left to ask: give other candidates"):
            propose(store, pool, asking)
        assert len(store.keys()) == possible


def test_a_committee_and_a_last_layer_choose_what_they_should(folder: Path) -> None:
    """Where members are alike they do not disagree; what was asked is not asked in other words."""
    some = [p for r in questions(12) for p in pairs(r)]
    pool = comparisons(some)
    nothing = comparisons([])
    model = learned()
    twins = choose(Asking(5, "disagreement", ("a", "b")), pool, nothing, [model, model])
    assert all(worth == pytest.approx(0, abs=1e-6) for _, worth in twins)
    apart = choose(Asking(5, "disagreement", ("a", "b")), pool, nothing, [model, learned(seed=1)])
    assert all(worth > 1e-4 for _, worth in apart)
    asking = Asking(3, "information", ("a",))
    first = choose(asking, pool, nothing, [model])
    later = choose(asking, pool, comparisons([some[i] for i, _ in first]), [model])
    assert first[0][1] >= first[1][1] >= first[2][1] > later[0][1]
    assert not {i for i, _ in first} & {i for i, _ in later}


def pairs(replies: Replies) -> Iterator[Proposal]:
    for i, one in enumerate(replies.candidates):
        for other in replies.candidates[i + 1 :]:
            yield Proposal(replies.problem, (one, other))


def test_replies_come_from_files_envs_and_policies(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1+1=", "replies": ["2", "3", "4"], "sources": ["run 1", "run 2", ""]},
        {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
    ]
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = [*candidates(str(path), [], Sampled())]
    assert [len(one.candidates) for one in found] == [3, 2]
    assert found[0].candidates[1] == Candidate("3", "run 2")
    with pytest.raises(UserError, match="has its own replies: leave --policy"):
        candidates(str(path), [], Sampled("ladder:0.1m"))
    shown = [*candidates("notes", ["replies=5", "train=9"], Sampled(each=3, problems=4))]
    assert len(shown) == 4
    assert all(len(one.candidates) <= 3 for one in shown)
    sampled = Sampled("ladder:0.1m", 3, 5, 4)
    played = [*replies_of_env(Arithmetic(), sampled)]
    assert len(played) == 5
    assert {c.source for one in played for c in one.candidates} == {"ladder:0.1m"}
    assert played == [*replies_of_env(Arithmetic(), sampled)]


@pytest.mark.parametrize(
    ("by", "models", "says"),
    [
        ("random", ("a",), "random asks no model"),
        ("uncertainty", (), "needs a reward model's folder: give --model"),
        ("disagreement", ("a",), "needs several reward models: give --model twice"),
        ("information", (), "needs one reward model's folder: give --model once"),
        ("information", ("a", "b"), "needs one reward model's folder: give --model once"),
    ],
)
def test_ways_that_lack_a_model_say_so(by: str, models: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Asking(3, by, models)  # type: ignore[arg-type]


def test_what_a_model_cannot_read_is_left_out_aloud(folder: Path) -> None:
    long = Replies(Problem("long", prompt="p" * 600), (Candidate("a"), Candidate("b")))
    with Store("p.sqlite", create=True) as store:
        seen = propose(store, [*questions(3), long], Asking(50, "information", ("judge-0",)))
        assert seen.long == 1
        assert [*seen.lines()][1] == "1 left out: they are longer than a reward model reads"
        assert "long" not in {one.problem.id for one in store.questions()}


def run(*words: str, input: str = "") -> str:
    said = CliRunner().invoke(app, ["preferences", *words], input=input)
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    return said.output


def test_the_commands_from_candidates_to_pairs(folder: Path) -> None:
    own = ["notes", "replies=3", "train=30"]
    said = run("propose", "p.sqlite", *own, "--model", "judge-0", "--count", "20")
    assert said.startswith("20 questions asked, of ")
    two = ["--model", "judge-0", "--model", "judge-1", "--by", "disagreement"]
    run("propose", "p.sqlite", *own, *two, "--count", "10", "--wanted", "2")
    more = ["--kind", "ranking", "--by", "random", "--count", "5"]
    assert run("propose", "p.sqlite", *own, *more).startswith("5 questions")
    assert run("annotate", "p.sqlite", *own) == "35 answered, 0 skipped\n"
    noisy = ["--annotator", "noisy", "--flips", "0.4", "--temperature", "0.2"]
    assert run("annotate", "p.sqlite", *own, *noisy) == "10 answered, 0 skipped\n"
    shown = run("show", "p.sqlite", "--answers", "1")
    assert "asked: 30 pairs, 5 rankings; 0 want more answers" in shown
    assert "answers: 45" in shown
    assert "noisy: 10, agrees with the rest" in shown
    assert "agreement on comparisons: alpha" in shown
    run("export", "p.sqlite", "all.jsonl", "--form", "answers")
    run("export", "p.sqlite", "most.jsonl", "--votes", "majority", "--kind", "pair")
    assert run("import", "again.sqlite", "all.jsonl").startswith("45 answers read")
    rows = [json.loads(line) for line in Path("most.jsonl").read_text().splitlines()]
    assert {row["annotator"] for row in rows} == {"majority"}
    for words, says in (
        (["show", "none.sqlite"], "there is no store of preferences none.sqlite"),
        (["export", "p.sqlite", "o.jsonl", "--votes", "most"], "--votes is one of each, majority"),
        (["export", "p.sqlite", "o.jsonl", "--kind", "duel"], "one of pair, rating, ranking"),
        (["propose", "p.sqlite", *own, "--by", "luck"], "--by is one of random, uncertainty"),
        (["propose", "p.sqlite", "nots", "--by", "random"], "nots"),
        (["annotate", "p.sqlite", "notes", "--flips", "2"], "flips is a share from 0 to 1"),
    ):
        refused = CliRunner().invoke(app, ["preferences", *words])
        assert isinstance(refused.exception, UserError), words
        assert says in str(refused.exception)


# The terminal.


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.chdir(tmp_path)
    user = {"role": "user", "content": "Hi \x1b[2J there"}
    three = tuple(map(Candidate, ("a", "b", "c")))
    with Store("p.sqlite", create=True) as store:
        store.propose(
            [
                Proposal(Problem("p", messages=(user,)), three[:2]),
                Proposal(Problem("q", prompt="q?"), three, "ranking"),
                Proposal(Problem("r", prompt="r?"), three[:2], "rating", low=0, high=10),
                Proposal(Problem("s", prompt="s?"), three[:2]),
            ]
        )
        yield store


def test_a_pipe_answers_line_by_line_and_goes_on_later(asked: Store) -> None:
    said = run("label", "p.sqlite", "--annotator", "Ann", input="2 # it is shorter\n2 1=3\n")
    assert "Ann: 2 answered, 0 skipped, 2 left" in said
    assert "\x1b" not in said  # a reply cannot clear the screen
    assert "Hi \ufffd[2J there" in said
    run("label", "p.sqlite", "--annotator", "Ann", input="7 1.5\nu\n3 9\ns\n")
    answers = [*asked.answers()]
    assert [a.values for a in answers] == [(0, 1), (1, 2, 1), (3, 9), ()]
    assert answers[0].said.why == "it is shorter"
    assert asked.counts().undone == 1
    assert "0 left" in run("label", "p.sqlite", "--annotator", "Ann")


def test_a_line_that_says_nothing_stops_a_pipe_and_not_a_person(asked: Store) -> None:
    refused = CliRunner().invoke(
        app, ["preferences", "label", "p.sqlite", "--annotator", "Ann"], input="1\n1 1 2\n"
    )
    assert isinstance(refused.exception, UserError)
    assert str(refused.exception).startswith("question 2: '1 1 2' is no answer: all numbers, best")
    assert str(refused.exception).endswith("1 answers before it are kept")
    said, given = list[str](), iter(["best\n", "u\n", "=\n", "q\n"])
    ask(asked, "Ann", said.append, lambda: next(given), patient=True)
    # After the first undo the pair is asked again, and is a tie now.
    assert [a.values for a in asked.answers()] == [(0, 0)]
    assert "question 2: 'best' is no answer" in "\n".join(said)
    assert said[-1] == "Ann: 1 answered, 0 skipped, 3 left"


@pytest.mark.parametrize(
    ("number", "word", "values"),
    [
        (1, "1", (1, 0)),
        (1, "2", (0, 1)),
        (2, "3 1 2", (1, 0, 2)),
        (2, "1 = 2 3", (2, 2, 1)),
        (2, "1=2=3", (2, 2, 2)),
        (3, "0 10", (0, 10)),
        (3, "s", ()),
    ],
)
def test_what_a_line_says(asked: Store, number: int, word: str, values: tuple[float, ...]) -> None:
    assert tuple(understood(asked.question(number), word)) == values


@pytest.mark.parametrize(
    ("number", "word"),
    [(1, "3"), (1, ""), (1, "12"), (2, "1 2"), (2, "1 2 2"), (2, "4 1 2"), (3, "1"), (3, "1..2 3")],
)
def test_what_a_line_does_not_say(asked: Store, number: int, word: str) -> None:
    with pytest.raises(UserError, match=f"question {number}: .* is no answer: "):
        understood(asked.question(number), word)


def test_ctrl_c_in_a_terminal_keeps_every_answer(asked: Store) -> None:
    """A real one: what was answered is there, and the command ends with 130."""
    master, slave = pty.openpty()
    words = ["preferences", "label", "p.sqlite", "--annotator", "Ann"]
    code = f"import sys; sys.argv = ['upslope', *{words!r}]; from upslope.cli import main; main()"
    one = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        start_new_session=True,
        text=True,
    )
    os.write(master, b"1\n")
    until = time.monotonic() + 30
    while asked.counts().answers < 1 and time.monotonic() < until:
        time.sleep(0.05)
    one.send_signal(signal.SIGINT)
    said, _ = one.communicate(timeout=30)
    os.close(master)
    os.close(slave)
    assert (one.returncode, "every answer so far is kept" in said) == (130, True), said
    assert [a.values for a in asked.answers()] == [(1, 0)]
