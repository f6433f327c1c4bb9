"""Which problem is played next: epochs, shares of several envs, mastered problems, resumption."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from records import group, problem
from upslope.curriculum import Curriculum, Heat, Window, order
from upslope.types import Group, Problem, UserError

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


def visited(rewards: list[float], id: str, visit: int) -> Group:
    """A finished group of one visit."""
    played = group(rewards, id=id)
    return replace(played, trajectories=tuple(replace(t, visit=visit) for t in played.trajectories))


def test_what_is_outside_the_window_rests_and_is_tried_again() -> None:
    picking = Curriculum(LETTERS, 0, window=Window(0.2, 0.8, rest=2))
    epochs: list[set[str]] = []
    for epoch in range(5):
        outside = {"a": [0.0] * 4, "b": [1.0] * 4, "c": [0.5, 0.5, 0.0, 1.0]}
        epochs.append(set())
        while len(epochs[-1]) < (7 if epoch in (0, 3) else 5):
            name, visit = picks(picking, 1)[0]
            assert visit == epoch
            epochs[-1].add(name)
            picking.learn(visited(outside.get(name, [1.0, 0.0]), name, visit))
    whole = set("abcdefg")
    assert epochs == [whole, whole - {"a", "b"}, whole - {"a", "b"}, whole, whole - {"a", "b"}]


def test_a_share_of_plays_is_of_what_was_about_half_right() -> None:
    picking = Curriculum(LETTERS, 0, window=Window(replay=0.5))
    assert min(visit for _, visit in picks(picking, 7)) == 0  # nothing is known yet
    picking.learn(visited([1.0, 1.0], "a", 0))
    picking.learn(visited([0.0, 0.0], "b", 0))
    picking.learn(visited([1.0, 0.0, 0.0, 0.0, 0.0], "c", 0))  # further from half
    picking.learn(visited([1.0, 0.0], "d", 0))
    picking.learn(visited([1.0, 0.0, 0.0], "e", 0))
    found = picks(picking, 400)
    again = [pick for pick in found if pick[1] < 0]
    assert 160 < len(again) < 240
    counts = Counter(name for name, _ in again)
    assert counts.keys() == {"d", "e"}
    assert abs(counts["d"] - counts["e"]) <= 1
    assert len(set(found)) == 400  # no problem twice with the same visit
    picking.learn(visited([1.0, 1.0], "d", -1))
    picking.learn(visited([1.0, 1.0], "e", -1))
    assert {name for name, visit in picks(picking, 50) if visit < 0} == {"c"}


@pytest.mark.parametrize("window", [Window(high=0.4), Window(low=0.6)])
def test_what_was_never_played_is_in_every_window(window: Window) -> None:
    picking = Curriculum(LETTERS, 0, window=window)
    assert sorted(name for name, _ in picks(picking, 7)) == list("abcdefg")


def test_windows_and_replays_go_on_where_they_were() -> None:
    def fresh() -> Curriculum:
        return Curriculum(LETTERS, 3, window=Window(0.2, 0.8, 1, 0.3))

    whole, begun, resumed = fresh(), fresh(), fresh()
    for picking in (whole, begun):
        for name, visit in picks(picking, 12):
            right = [1.0] * 4 if name in "ab" else [1.0, 0.0]
            picking.learn(visited(right, name, visit))
    resumed.load_state(json.loads(json.dumps(begun.state())))
    assert picks(resumed, 40) == picks(whole, 40)


def test_heat_goes_evenly_and_stays() -> None:
    heat = Heat(0.5, 4)
    assert [heat.at(step, 1.0) for step in (0, 1, 4, 9)] == [1.0, 0.875, 0.5, 0.5]
    assert Heat().at(7, 0.6) == 0.6


def test_other_problems_are_refused() -> None:
    state = Curriculum(LETTERS, 0).state()
    with pytest.raises(UserError, match="problems are not those that the run was begun with"):
        Curriculum(LETTERS[1:], 0).load_state(state)


def test_an_env_without_problems_is_refused() -> None:
    with pytest.raises(UserError, match="no problems in its train split"):
        Curriculum([], 0)
