"""Held-out problems that are trained on are found, and those that only resemble are not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from upslope.envs.arithmetic import Arithmetic
from upslope.envs.prices import Prices
from upslope.overlap import overlap, question, words
from upslope.selfcheck import prove_held_out
from upslope.types import Problem, UserError

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdlmnrst"]


def told(count: int, name: str, seed: int, length: int = 60) -> list[Problem]:
    """Stories of random words, all with the same instruction."""
    draw = random.Random(seed)
    stories = [" ".join(draw.choices(VOCABULARY, k=length)) for _ in range(count)]
    return [asked(f"{name}-{i}", f"Solve this. {s} Answer:", "1") for i, s in enumerate(stories)]


def asked(name: str, text: str, answer: str = "") -> Problem:
    return Problem(name, prompt=text, answer=answer)


def test_words_keep_what_changes_a_question() -> None:
    assert words("  The CAT’s well-known\n hat!") == ["the", "cat", "s", "well", "known", "hat"]
    assert words("12+34=") != words("12-34=")
    assert words("1,000 eggs") == words("1000 eggs")
    assert words("1.5") != words("15")
    assert words("(1, 2)") == words("( 1,2 )")


@pytest.mark.parametrize(
    ("train", "held_out", "same"),
    [
        ("How many eggs?", "how many  EGGS", True),
        ("How many eggs?", "How many legs?", False),
        ("5+0=", "5-0=", False),
        ("x = 1.5", "x = 15", False),
    ],
)
def test_the_same_words_are_the_same_question(train: str, held_out: str, same: bool) -> None:
    others = [asked("a", "What else?"), asked("b", "Nothing.")]
    seen = overlap([asked("t", train, "5"), *others], [asked("h", held_out, "5")])
    assert seen.same == ((("h", "t"),) if same else ())


def test_other_answers_are_other_problems() -> None:
    """Case may be the question: "aB" backwards is not "Ab" backwards."""
    train = [asked("t", "reverse aB", "Ba"), asked("u", "sort xy", "xy")]
    assert overlap(train, [asked("h", "reverse Ab", "bA")]).same == ()
    assert overlap(train, [asked("h", "reverse Ab")]).same == (("h", "t"),)  # nobody knows


def test_where_all_ask_the_same_nothing_is_said() -> None:
    seen = overlap([asked("t", "Play."), asked("u", "Play.")], [asked("h", "Play.")])
    assert (seen.same, seen.near) == ((), ())


def test_most_of_the_wording_is_near() -> None:
    train, held_out = told(50, "train", 0), told(10, "test", 1)
    text = question(train[7])
    changed = text.replace(words(text)[30], "something", 1)
    cut = " ".join(text.split()[:25]) + " " + " ".join(question(held_out[0]).split()[2:40])
    found = overlap(train, [*held_out, asked("near", changed), asked("less", cut)])
    assert (found.same, found.near) == ((), ("near",))


def test_an_envs_own_wording_is_not_counted() -> None:
    """A template of 40 words around one changing name: exact copies alone are found."""
    frame = " ".join(VOCABULARY[:20]) + " {} " + " ".join(VOCABULARY[20:40])
    names = VOCABULARY[100:300]
    problems = [asked(f"{i}", frame.format(name) + f" {name}?") for i, name in enumerate(names)]
    seen = overlap(problems[:150], [*problems[150:], asked("copy", problems[3].prompt.upper())])
    assert seen.same == (("copy", "3"),)
    assert seen.near == ()


@pytest.mark.parametrize(
    "env",
    [
        Arithmetic(operations=("add", "subtract"), digits=2),
        Arithmetic(digits=9, form="text"),
        Prices(train=1000, test=300),
        Prices(items=8, train=1000, test=300),
    ],
    ids=str,
)
def test_procedural_envs_are_apart(env: Arithmetic | Prices) -> None:
    seen = overlap(env.problems("train"), env.problems("test"))
    assert (seen.same, seen.near) == ((), ())


def test_a_leak_is_refused_in_one_sentence() -> None:
    train, held_out = told(30, "train", 0), told(8, "test", 1)
    proof = prove_held_out("Stories", train, held_out)
    assert proof.seen == "8 and 30; 0 share most of their wording"
    leaked: Sequence[Problem] = [*held_out, asked("leak", question(train[4]).upper())]
    with pytest.raises(
        UserError, match=r"^self-check: 1 of 9 held-out .* Stories .* 'leak' \(there 'train-4'\)"
    ):
        prove_held_out("Stories", train, leaked)
