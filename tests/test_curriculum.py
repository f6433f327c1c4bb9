"""Which problem is played next: epochs, shares of several envs, mastered problems, resumption."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from records import group, problem
from upslope.curriculum import Curriculum, order
from upslope.types import Problem, UserError

LETTERS = [problem(name) for name in "abcdefg"]


def of(env: str, n: int) -> list[Problem]:
    return [problem(f"{env}{i}", env=env) for i in range(n)]


def picks(curriculum: Curriculum, n: int) -> list[tuple[str, int]]:
    found = [curriculum.next() for _ in range(n)]
    return [(pick[0].id, pick[1]) for pick in found if pick]


def test_order_is_a_permutation_that_depends_on_seed_and_visit() -> None:
    assert sorted(order(50, 0, 0)) == list(range(50))
    assert order(50, 0, 0) == order(50, 0, 0)
    assert len({tuple(order(50, seed, visit)) for seed in range(3) for visit in range(3)}) == 9


def test_envs_have_their_turns_by_weight_and_epochs_of_their_own() -> None:
    mixed = Curriculum([*of("x", 3), *of("y", 10)], 0, {"x": 3.0, "y": 1.0})
    found = picks(mixed, 40)
    assert Counter(name[0] for name, _ in found) == {"x": 30, "y": 10}
    for start in range(0, 40, 4):  # even over every few steps, not only in the long run
        assert Counter(name[0] for name, _ in found[start : start + 4]) == {"x": 3, "y": 1}
    assert Counter(name for name, _ in found if name[0] == "x") == {"x0": 10, "x1": 10, "x2": 10}
    assert len(set(found)) == 40  # no problem twice with the same visit
    alone = picks(Curriculum(of("y", 10), 0), 10)
    assert [pick for pick in found if pick[0][0] == "y"] == alone


def test_envs_without_weights_have_equal_turns() -> None:
    found = picks(Curriculum([*of("x", 2), *of("y", 30)], 0), 20)
    assert Counter(name[0] for name, _ in found) == {"x": 10, "y": 10}


def test_what_is_mastered_is_not_played_again() -> None:
    picking = Curriculum(LETTERS, 0, retire=0.75)
    picking.learn(group([1.0, 1.0, 1.0, 0.0], id="a"))  # three of four: at the bound
    picking.learn(group([1.0, 1.0, 0.0, 0.0], id="b"))
    picking.learn(group([1.0, 1.0, 1.0, 1.0], id="b"))  # six of eight in all
    picking.learn(group([1.0, 0.0, 1.0, 0.0], id="c"))
    assert Counter(name for name, _ in picks(picking, 10)) == dict.fromkeys("cdefg", 2)
    for letter in "cdefg":
        picking.learn(group([1.0] * 9, id=letter))
    assert picking.next() is None


def test_without_retirement_nothing_is_ever_mastered() -> None:
    picking = Curriculum(LETTERS, 0)
    picking.learn(group([1.0, 1.0], id="a"))
    assert "a" in {name for name, _ in picks(picking, 7)}
    assert picking.state()["right"] == {}


def test_it_goes_on_where_it_was() -> None:
    def fresh() -> Curriculum:
        return Curriculum([*of("x", 3), *of("y", 10)], 4, {"x": 2.0}, retire=0.9)

    whole, begun, resumed = fresh(), fresh(), fresh()
    for picking in (whole, begun):
        picks(picking, 17)
        picking.learn(group([1.0, 1.0], id="x1"))
    resumed.load_state(json.loads(json.dumps(begun.state())))
    assert picks(resumed, 30) == picks(whole, 30)


def test_other_problems_are_refused() -> None:
    state = Curriculum(LETTERS, 0).state()
    with pytest.raises(UserError, match="problems are not those that the run was begun with"):
        Curriculum(LETTERS[1:], 0).load_state(state)


def test_an_env_without_problems_is_refused() -> None:
    with pytest.raises(UserError, match="no problems in its train split"):
        Curriculum([], 0)
