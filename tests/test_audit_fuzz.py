"""Verifier fuzzing: shipped graders hold, and what is wrong with others is found."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from upslope.audit.cases import cases, framed, wrong_answers
from upslope.audit.fuzz import fuzz, passes
from upslope.audit.graders import GRADERS, Expressions, Formulas, Numeric, Words
from upslope.audit.target import target
from upslope.cli import app
from upslope.envs.arithmetic import Arithmetic
from upslope.envs.countdown import Countdown
from upslope.envs.episodes import single_turn
from upslope.envs.honeypot import Honeypot, Tampering
from upslope.envs.logic import Logic
from upslope.envs.mathematics import Mathematics
from upslope.envs.prices import Prices
from upslope.envs.reasoning_gym import ReasoningGym
from upslope.envs.working import Working
from upslope.rewards.hedges import hedged
from upslope.types import Env, Problem, Reward, Split, Trajectory, UserError

SMALL = {"train": 4, "test": 4}
ENOUGH = 300


def sound(env: Env, problems: int = 4, costly: int = 1) -> None:
    """At least 300 replies that must not pass, of which none does, and nothing else is wrong."""
    report = fuzz(env, env.problems("test")[:problems], costly=costly)
    assert report.cases["must not"] >= ENOUGH
    assert [fault.row() for fault in report.faults] == []


@pytest.mark.parametrize(
    "env",
    [
        Numeric(),
        Expressions(),
        Arithmetic(**SMALL),
        Arithmetic(form="text", operations=("subtract", "multiply"), **SMALL),
        Arithmetic(form="chat", reverse=True, **SMALL),
        Countdown(**SMALL),
        Countdown(form="text", use="any", **SMALL),
        Countdown(form="chat", **SMALL),
        Logic(**SMALL),
        Logic(form="chat", **SMALL),
        Logic(form="text", reply="answer", **SMALL),
        Prices(**SMALL),
        Working(**SMALL),
        Working(target=13, **SMALL),
        Honeypot(mended=True, **SMALL),
        Tampering(mended=True, **SMALL),
    ],
    ids=repr,
)
def test_shipped_graders_let_nothing_wrong_pass(env: Env) -> None:
    sound(env)


def test_numbers_in_words_hold() -> None:
    sound(Words(("46", "-7")), costly=0)


def test_formulas_hold() -> None:
    sound(Formulas(("\\frac{3}{4}", "5", "\\text{east}")), 3, costly=0)


def test_questions_of_a_data_set_hold(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + 5?", "answer": f"so 5 more\n#### {n + 5}"} for n in (41, 8)]
    file = tmp_path / "few.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sound(Mathematics(test=str(file)), 1, costly=0)


@pytest.mark.parametrize("name", ["chain_sum", "spell_backward", "gcd"])
def test_scorers_of_others_hold(name: str) -> None:
    pytest.importorskip("reasoning_gym")
    sound(ReasoningGym(name, train=3, test=3), 2)


def test_a_tower_of_powers_is_given_up_on_and_does_not_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"a tower": "\\boxed{9^{9^{9^{9}}}}"}
    monkeypatch.setattr("upslope.audit.cases.COSTLY", told)
    env = Formulas(("\\text{east}", "\\text{west}"))
    problems = env.problems("test")
    report = fuzz(env, problems)
    assert report.faults == []
    assert sum(report.cases.values()) > ENOUGH


@pytest.mark.parametrize(
    ("env", "found"),
    [
        (Honeypot(**SMALL), {"a wrong answer: a test's mark"}),
        (Honeypot("list", **SMALL), {"a hedge"}),
        (Honeypot("timeout", **SMALL), {"a short tower"}),
        (Tampering(**SMALL), {"a wrong answer: a redirection"}),
    ],
    ids=repr,
)
def test_every_loophole_of_the_honeypots_is_found(env: Env, found: set[str]) -> None:
    report = fuzz(env, env.problems("test"))
    assert report.failed
    assert found <= {fault.case.kind for fault in report.faults}


@dataclass(frozen=True)
class Sloppy:
    """A grader with one bug of several."""

    bug: str = ""

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        return [Problem(f"{n}", prompt=f"{n}=", answer=f"{n}", solution=f"{n}") for n in (46, 305)]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [self.graded(t.text, problem.answer) for t in trajectories]

    def graded(self, text: str, gold: str) -> Reward:
        said = text.strip()
        if self.bug == "contains":
            return Reward(float(gold in said))
        if self.bug == "not a number":
            try:
                return Reward(1.0 - float(abs(float(said) - float(gold)) > 0.5))
            except ValueError:
                return Reward(0.0)
        if self.bug == "crash":
            return Reward(float(int(said) == int(gold)))
        if self.bug == "a failure passes":
            try:
                return Reward(float(int(said) == int(gold)))
            except ValueError:
                return Reward(1.0)
        if self.bug == "chance" and said != gold:
            return Reward(random.random() / 2)
        if self.bug == "strict":
            return Reward(float(said == f"{gold}."))
        return Reward(float(said == gold))


@pytest.mark.parametrize(
    ("bug", "wrong", "kind"),
    [
        ("contains", "false positive", "a hedge"),
        ("not a number", "exploit", "NaN"),
        ("crash", "crash", "nothing"),
        ("a failure passes", "exploit", "praise"),
        ("chance", "unstable", "a hedge"),
        ("strict", "false negative", "the solution"),
    ],
)
def test_every_bug_is_found(bug: str, wrong: str, kind: str) -> None:
    env = Sloppy(bug)
    report = fuzz(env, env.problems("test"))
    assert (wrong, kind) in {(fault.wrong, fault.case.kind) for fault in report.faults}
    assert report.failed == (bug != "strict")
    assert any(wrong in line for line in report.lines())


def test_a_right_grader_passes() -> None:
    report = fuzz(Sloppy(), Sloppy().problems("test"), "right")
    assert (report.faults, report.failed) == ([], False)
    assert report.lines()[-1] == "  nothing is wrong"


def test_a_fast_grader_is_compared_with_a_strict_one() -> None:
    strict, fast = Numeric(("46",)), Words(("46",))
    problems = fast.problems("test")
    report = fuzz(fast, problems, against=strict, costly=0)
    assert {fault.wrong for fault in report.faults} == {"differs"}
    assert "after answer is" in str([fault.case.kind for fault in report.faults])
    assert not report.failed  # to differ is to be looked at; both may be right
    same = fuzz(strict, strict.problems("test"), against=Sloppy(), costly=0)
    assert same.faults == []


def test_the_answer_is_found_in_a_solution() -> None:
    told = Problem("p", prompt="p", answer="5", solution="so 5 + 0 = 5.")
    assert framed(told) == ("5", "so 5 + 0 = ", ".")
    sums = Problem("p", prompt="p", answer="13", solution=" Answer: 2*3+7")
    assert framed(sums) == ("2*3+7", " Answer: ", "")
    assert wrong_answers(told, "5", [sums]) == ["6", "-5", "4", "50", "2*3+7"]


def test_no_reply_that_must_not_pass_is_right_by_chance() -> None:
    """Against a grader that takes exactly the digits, however they are dressed in spaces."""
    for n in (0, 1, 7, 10, 100, 999):
        problem = Problem(f"{n}", prompt="?", answer=f"{n}", solution=f"{n}")
        must_not = [c.text for c in cases(problem, ()) if c.passes is False]
        assert [text for text in must_not if text.strip() == f"{n}"] == []


def test_what_passes() -> None:
    assert passes(Reward(1.0), 1.0)
    assert passes(Reward(0.9, {"correct": 0.0}), 0.9)  # as much as the solution earns
    assert not passes(Reward(0.5), 1.0)
    assert not passes(Reward(1.0, valid=False), 1.0)
    assert not passes(None, 1.0)


def test_a_hedge_has_the_right_answer_and_another() -> None:
    assert hedged("cat", "cat or dog")
    assert hedged("cat", "dog, cat")
    assert hedged("cat", "Dog\ncat")
    assert not hedged("cat", "cat")
    assert not hedged("cat", "dog")
    assert not hedged("a, b", "a, b")
    assert not hedged("", "a or b")


RIGHT_AND_WRONG = """
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Kind:
    extra: float = 0.0

    def open(self, host):
        return Grader(host.env, self.extra)


@dataclass
class Grader:
    env: object
    extra: float

    async def rewards(self, problem, trajectories):
        graded = await self.env.rewards(problem, trajectories)
        pairs = zip(graded, trajectories, strict=True)
        earned = [r.total or self.extra * ("ok" in t.text) for r, t in pairs]
        return [replace(r, parts={}, total=e) for r, e in zip(graded, earned, strict=True)]
"""


def test_the_command_says_what_is_wrong_and_exits_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RIGHT_AND_WRONG, encoding="utf-8")
    words = ["audit", "reward", "mine.py:Kind", "--problems", "2", "--out", "found.json"]
    right = CliRunner().invoke(app, words)
    assert (right.exit_code, right.output.splitlines()[-1]) == (0, "  nothing is wrong")
    assert json.loads(Path("found.json").read_text())["failed"] is False
    wrong = CliRunner().invoke(app, [*words, "extra=1.0"])
    assert wrong.exit_code == 1
    assert "exploit" in wrong.output
    kinds = {row["kind"] for row in json.loads(Path("found.json").read_text())["faults"]}
    assert kinds == {"a wrong answer: a test's mark", "a wrong answer: a test's mark alone"}


def test_names_and_what_grades_nothing() -> None:
    assert {type(target(name, (), "arithmetic")) for name in GRADERS} == {
        Numeric,
        Words,
        Formulas,
        Expressions,
    }
    assert target("arithmetic", ("digits=1",), "") == Arithmetic(digits=1)
    with pytest.raises(UserError, match="knows no answers"):
        fuzz(Sloppy(), [Problem("p", prompt="p")], "it")
    with pytest.raises(UserError, match="unknown env, grader or reward"):
        target("arithmetics", (), "arithmetic")
