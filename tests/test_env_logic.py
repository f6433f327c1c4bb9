"""The logic env: what depth means, and that nothing short of following the rules tells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from replies import marks, rewards_of
from upslope.batteries import check_env
from upslope.envs.logic import Logic
from upslope.models.ladder import CHARACTERS
from upslope.seeds import split_of
from upslope.types import Demonstrates, Problem, Split, UserError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
BARE = re.compile(r"([a-z>,]+);([a-z]);([a-z]):")
Read = tuple[list[tuple[str, str]], str, str]


def read(problem: Problem) -> Read:
    """Rules, what is true, and what is asked."""
    found = BARE.fullmatch(problem.id.lower())
    assert found
    rules = [(rule[0], rule[2]) for rule in found[1].split(",")]
    return rules, found[2], found[3]


def steps(problem: Problem) -> int | None:
    """Rules that a proof needs, the shortest; None where there is none."""
    rules, fact, asked = read(problem)
    known, count = {fact}, 0
    while asked not in known:
        more = {b for a, b in rules if a in known} - known
        if not more:
            return None
        known, count = known | more, count + 1
    return count


@pytest.mark.parametrize("form", ["characters", "text", "chat"])
@pytest.mark.parametrize("reply", ["answer", "proof"])
def test_it_passes_the_battery(form: Any, reply: Any) -> None:
    check_env(Logic(form=form, reply=reply, train=20, test=10), problems=1)


def test_forms() -> None:
    rules, line = [("A", "B"), ("C", "D"), ("B", "E"), ("D", "F")], "ABE"
    bare = Logic()._problem(rules, "A", line)
    assert (bare.prompt, bare.solution, bare.answer) == ("a>b,c>d,b>e,d>f;a;e:", "eba:y", "y")
    assert bare.info["slip"] == "eb:n"
    assert Logic(reply="answer")._problem(rules, "C", line).solution == "n"
    text = Logic(form="text")._problem(rules, "A", line)
    assert text.prompt.endswith(
        "\n\nIf A then B. If C then D. If B then E. If D then F. "
        "A is true, and nothing else is known. Does E follow?"
    )
    assert (text.solution, text.answer) == (" E from B from A, so yes", "yes")
    assert re.findall(r"so (\w+)\n", text.prompt) == ["yes", "no"]
    chat = Logic(form="chat")._problem(rules, "C", line)
    assert chat.messages[0]["content"].endswith("and end with the word yes or no.")
    assert chat.solution == "E from B from A, so no"


def test_the_examples_in_the_prompt_are_right() -> None:
    prompt = Logic(form="text")._problem([("A", "B"), ("C", "D")], "A", "AB").prompt
    for shown in prompt.split("\n\n")[:-1]:
        rules = [(a.lower(), b.lower()) for a, b in re.findall(r"If (\w) then (\w)", shown)]
        fact, asked = re.findall(r"(\w) is true.* Does (\w) follow", shown)[0]
        bare = f"{','.join(f'{a}>{b}' for a, b in rules)};{fact};{asked}:"
        follows = steps(Problem(bare, prompt=bare)) is not None
        assert shown.endswith("so yes" if follows else "so no")


@pytest.mark.parametrize(("depths", "chains"), [((1, 2, 5), 2), ((3,), 4), ((12,), 2)])
def test_a_proof_takes_just_the_depth(depths: tuple[int, ...], chains: int) -> None:
    for problem in Logic(depths, chains, train=60, test=20).problems("train"):
        depth = problem.info["depth"]
        assert steps(problem) == (depth if problem.answer == "y" else None)
        assert len(read(problem)[0]) == chains * depth
        assert len(problem.solution) == depth + 3
        assert set(problem.prompt) <= set(CHARACTERS)


def test_without_any_one_rule_of_the_proof_nothing_follows() -> None:
    for problem in Logic((3,), train=20).problems("train"):
        if problem.answer == "y":
            rules, fact, asked = read(problem)
            needed = list(zip(problem.solution[1:4], problem.solution[:3], strict=True))
            for rule in needed:
                left = ",".join(f"{a}>{b}" for a, b in rules if (a, b) != rule)
                assert steps(Problem(f"{left};{fact};{asked}:", prompt="p")) is None


def test_answers_are_balanced_in_every_depth_and_split() -> None:
    env = Logic((1, 2, 3), train=600, test=60)
    for split in SPLITS:
        seen = Counter((p.info["depth"], p.answer) for p in env.problems(split))
        assert len(seen) == 6
        assert len(set(seen.values())) == 1


def last_mentioned(read: Read) -> bool:
    """The later of the rules is about what is asked for."""
    rules, _, asked = read
    return next(i for i, (_, b) in enumerate(rules) if b == asked) >= len(rules) / 2


def near_the_fact(read: Read) -> bool:
    """What is asked for stands close to what is true."""
    rules, fact, asked = read
    places = [next(i for i, rule in enumerate(rules) if x in rule) for x in (fact, asked)]
    return abs(places[0] - places[1]) < len(rules) / 3


def rises(read: Read) -> bool:
    """The letters are in order."""
    return read[1] < read[2]


def often(read: Read) -> bool:
    """It is mentioned no less often than what is true."""
    letters = "".join(a + b for a, b in read[0])
    return letters.count(read[2]) >= letters.count(read[1])


def first_rule_is_the_facts(read: Read) -> bool:
    return any(a == read[1] for a, _ in read[0][: len(read[0]) // 2])


def short_of_depth(read: Read) -> bool:
    """All but one of the steps back, then the nearer name: a proof that stops too early."""
    rules, fact, asked = read
    before = {b: a for a, b in rules}
    for _ in range(len(rules) // 2 - 1):
        asked = before[asked]
    return abs(ord(asked) - ord(fact)) < 9


BASELINES = [last_mentioned, near_the_fact, rises, often, first_rule_is_the_facts, short_of_depth]


@pytest.mark.parametrize("guess", [*BASELINES, lambda read: True], ids=lambda f: f.__name__)
@pytest.mark.parametrize("depth", [2, 4])
def test_shortcuts_are_right_half_of_the_time(guess: Callable[[Read], bool], depth: int) -> None:
    """4,000 problems: a fair coin is within four standard deviations, 3.2 points."""
    problems = Logic((depth,), train=4000).problems("train")
    right = sum((p.answer == "y") == guess(read(p)) for p in problems)
    assert abs(right / len(problems) - 0.5) < 0.032


def test_the_same_rules_are_asked_about_twice_and_in_one_split() -> None:
    env = Logic(train=200, test=40)
    for split in SPLITS:
        ids = [p.id for p in env.problems(split)]
        asked = Counter(question.rpartition(";")[0] + ";" for question in ids)
        assert len(set(ids)) == len(ids) == (200 if split == "train" else 40)
        assert set(asked.values()) == {2}
        assert {split_of(premises) for premises in asked} == {split}


def test_demonstrations_stop_short_as_often_as_wanted() -> None:
    assert isinstance(Logic(), Demonstrates)
    shown = list(Logic(wrong=0.4, train=1000).demonstrations("train"))
    slips = [reply == p.info["slip"] for p, reply in shown]
    assert all(s or p.solution == reply for s, (p, reply) in zip(slips, shown, strict=True))
    assert abs(sum(slips) / len(shown) - 0.4) < 0.05
    assert all(p.info["slip"][-1] != p.answer for p, _ in shown)


def test_grading() -> None:
    env = Logic(form="chat")
    yes = env._problem([("A", "B"), ("C", "D")], "A", "AB")
    right = ("yes", "Yes.", "B from A, so **yes**", "no, wait: yes", "YES\n", " yes!")
    assert marks(env, yes, *right) == [(1, 1)] * len(right)
    assert marks(env, yes, "no", "is it yes? No: " + "so " * 9 + "no") == [(0, 1)] * 2
    both = ("yes, or no", "no or yes", "no/yes", "yes " * 30_000 + "no")
    assert marks(env, yes, *both) == [(0, 0)] * len(both)  # two answers are none
    odd = ("", "yes it does", "y", "maybe", "\u044fes", "yess", "1", "yes" * 2, "yes\u0301x")
    assert marks(env, yes, *odd) == [(0, 0)] * len(odd)
    bare = Logic()
    no = bare._problem([("A", "B"), ("C", "D")], "C", "AB")
    assert marks(bare, no, "ba:n", "n", "ba:y") == [(1, 1), (1, 1), (0, 1)]
    assert marks(bare, no, "ba", "") == [(0, 0), (0, 0)]
    assert [r.answer for r in rewards_of(bare, no, "ba:n", "ba")] == ["n", ""]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"depths": ()}, "each at least 1"),
        ({"depths": (0,)}, "each at least 1"),
        ({"chains": 1}, "chains at least 2"),
        ({"depths": (13,)}, "depths go up to 12 with chains=2: there are 26 letters, got 13"),
        ({"wrong": -1.0}, "wrong is a share"),
        ({"train": 1}, "set each to at least 2"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Logic(**settings)
