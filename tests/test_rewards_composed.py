"""Mix, ensemble, cascade, cache and passes: totals by hand, who is asked for what, what fails."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plays import asked
from rewarded import Given, Numbers, again, graded, hosted, plays, totals
from upslope.audit.settings import Alarms
from upslope.components import build, table_of
from upslope.grading import grade
from upslope.ledger import Ledger
from upslope.rewarding import Rewarding
from upslope.rewards import REWARDS
from upslope.rewards.cached import Cached
from upslope.rewards.cascade import Cascade, Level
from upslope.rewards.clip import Clip
from upslope.rewards.ensemble import Ensemble
from upslope.rewards.length import Length
from upslope.rewards.mix import Mix, Part
from upslope.rewards.nested import within
from upslope.rewards.own import Own
from upslope.rewards.passes import Passes
from upslope.types import Problem, Reward, Trajectory, UserError


def test_a_mix_is_the_weighted_sum_and_reports_its_parts() -> None:
    mix = Mix(
        {"a": Part(Numbers(cost="risk")), "b": Part(Numbers(-2.0, "risk", answers=True), 0.5)}
    )
    (one,) = graded(mix, "3")
    # 1 * 3 + 0.5 * (-2 * 3), and of the cost, which both report, the largest.
    assert one.total == 0.0
    assert one.parts == {"a": 3.0, "b": -6.0, "own": 1.0, "b.own": 1.0}
    assert one.costs == {"risk": 3.0}
    assert one.answer == "3"
    place = len(plays("3")[0].segments[0].tokens) - 1
    assert one.at == ((0, place, 3.0), (0, place, -3.0))


def test_a_part_of_another_is_not_taken_for_the_mixs_own() -> None:
    inner = Given(lambda text: Reward(7.0, {"b": 0.25, "correct": 1.0}))
    (one,) = graded(Mix({"a": Part(inner), "b": Part(Numbers())}), "2")
    assert one.parts == {"a": 7.0, "b": 2.0, "a.b": 0.25, "correct": 1.0, "own": 1.0}


def test_the_order_of_parts_changes_no_total() -> None:
    parts = {"a": Part(Numbers(2.0)), "b": Part(Numbers(3.0), 0.1), "c": Part(Numbers(), -1.0)}
    found = [
        totals(graded(Mix(dict(order)), "1", "-4", "x"))
        for order in itertools.permutations(parts.items())
    ]
    assert found == [[1.3, -5.2, 0.0]] * 6


def test_a_failed_part_that_counts_is_named_and_one_of_weight_0_is_left_out() -> None:
    bad = Given(lambda text: Reward(0.0, valid=False, reason="it is down"))
    (one,) = graded(Mix({"good": Part(Numbers()), "judge": Part(bad)}), "1")
    assert (one.valid, one.reason) == (False, "judge: it is down")
    (two,) = graded(Mix({"good": Part(Numbers()), "judge": Part(bad, 0.0)}), "1")
    assert (two.valid, two.total, two.parts) == (True, 1.0, {"good": 1.0, "own": 1.0})


def test_behind_a_gate_nobody_is_asked() -> None:
    rest = Numbers(10.0)
    mix = Mix({"dear": Part(rest), "gate": Part(Numbers(), 0.5, gate=1.0)})
    found = graded(mix, "0.9", "1", "x")
    # 0.9 does not reach 1: half of it. 1 does: 10 + 0.5. The last cannot be graded.
    assert totals(found) == [0.45, 10.5, 0.0]
    assert rest.calls == [["1"]]
    assert [r.valid for r in found] == [True, True, False]
    assert found[2].reason == "gate: 'x' is no number"
    assert "dear" not in found[0].parts


def test_two_gates_are_passed_one_after_the_other() -> None:
    second, rest = Numbers(2.0), Numbers(100.0)
    gates = {"one": Part(Numbers(), gate=1.0), "two": Part(second, gate=4.0)}
    found = graded(Mix({**gates, "rest": Part(rest)}), "0", "1", "2")
    assert totals(found) == [0.0, 2.0, 206.0]
    assert (second.calls, rest.calls) == ([["1", "2"]], [["2"]])


@pytest.mark.parametrize(
    ("how", "k", "expected"),
    # Scores 1, .4, .7, -.2, .6: mean .5, variance .16, standard deviation .4 of the population.
    [("mean", 0.5, 0.5), ("worst", 0.5, -0.2), ("variance", 0.5, 0.42), ("deviation", 0.5, 0.3)],
)
def test_ensembles_by_hand(how: Any, k: float, expected: float) -> None:
    members = {f"m{s}": Numbers(s) for s in (1.0, 0.4, 0.7, -0.2, 0.6)}
    for order in (members, dict(reversed(members.items()))):
        (one,) = graded(Ensemble(order, how, k), "1")
        assert one.total == pytest.approx(expected)
        assert one.parts["disagreement"] == pytest.approx(0.4)
        assert one.parts["m-0.2"] == -0.2
        # What was earned at tokens is the worst member's, the mean's, or nobody's.
        assert sum(v for _, _, v in one.at) == pytest.approx(expected if one.at else 0.0)
        assert bool(one.at) == (how in ("mean", "worst"))


def test_an_ensemble_with_a_failed_member_says_nothing() -> None:
    bad = Given(lambda text: Reward(0.0, valid=False, reason="no"))
    (one,) = graded(Ensemble({"a": Numbers(), "b": bad}, "worst"), "1")
    assert (one.valid, one.reason) == (False, "b: no")


def test_a_cascade_asks_for_what_is_undecided() -> None:
    verifier = Given(lambda text: Reward(float(float(text) >= 1)))
    small, judge = Numbers(0.1), Numbers(0.2)
    cascade = Cascade(
        {
            "verifier": Level(verifier, apart=0.5),
            "small": Level(small, unsure=(0.2, 0.4)),
            "judge": Level(judge),
        }
    )
    grades = cascade.open(hosted())
    # Told apart by the verifier: nobody else is asked.
    first = again(grades, "0", "1")
    assert totals(first) == [0.0, 1.0]
    assert (small.calls, judge.calls) == ([], [])
    # All right: the small model is asked for all, and the judge for what it is unsure of.
    second = again(grades, "1", "3", "5")
    assert totals(second) == [0.1, 0.6, 0.5]
    assert (small.calls, judge.calls) == ([["1", "3", "5"]], [["3"]])
    reached = [r.parts["reached_judge"] for r in (*first, *second)]
    assert reached == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert [r.parts["reached_verifier"] for r in second] == [1.0] * 3


def test_what_a_level_could_not_grade_goes_on() -> None:
    last = Given(lambda text: Reward(9.0))
    found = graded(Cascade({"a": Level(Numbers(), apart=1.0), "b": Level(last)}), "0", "2", "x")
    assert totals(found) == [0.0, 2.0, 9.0]
    assert found[2].valid


def test_a_group_of_which_nothing_is_known_goes_on_whole() -> None:
    last = Given(lambda text: Reward(9.0))
    found = graded(Cascade({"a": Level(Numbers(), apart=1.0), "b": Level(last)}), "x", "y")
    assert totals(found) == [9.0, 9.0]


def test_the_cache_asks_once_for_each_reply_to_a_problem() -> None:
    of = Numbers()
    plain = Given(lambda text: replace(of.one(plays(text)[0]), at=()))
    grades = Cached(plain).open(hosted())
    found = again(grades, "1", "2", "1")
    assert totals(found) == [1.0, 2.0, 1.0]
    assert [r.parts["cached"] for r in found] == [0.0, 0.0, 1.0]
    found = again(grades, "2", "3")
    assert [r.parts["cached"] for r in found] == [1.0, 0.0]
    other = again(grades, "2", problem=asked("another"))
    assert [r.parts["cached"] for r in other] == [0.0]


def test_the_cache_forgets_what_was_not_needed_for_longest_and_what_failed() -> None:
    of = Numbers()
    calls = of.calls
    plain = Given(lambda text: Reward(float(text)))
    grades = Cached(plain, size=2).open(hosted())
    for replies in ("1", "2", "1", "3"):
        again(grades, replies)
    # Two fit; 1 was needed after 2.
    assert [r.parts["cached"] for r in again(grades, "1", "2", "3")] == [1.0, 0.0, 1.0]
    fails = Cached(of).open(hosted())
    again(fails, "x")
    again(fails, "x")
    assert calls == [["x"], ["x"]]


def test_process_rewards_are_not_taken_from_another_play() -> None:
    of = Numbers()
    found = graded(Cached(of), "1", "1")
    assert of.calls == [["1"], ["1"]]
    assert [r.parts["cached"] for r in found] == [0.0, 0.0]


def test_the_cache_sees_how_an_env_was_left() -> None:
    def by_facts(t: Trajectory) -> Reward:
        return Reward(float(t.facts.get("file", 0)))

    class Facts(Given):
        async def rewards(self, problem: Problem, trajectories: Any) -> Any:
            return [by_facts(t) for t in trajectories]

    grades = Cached(Facts(lambda text: Reward(0.0))).open(hosted())
    one = plays("1")[0]
    group = [replace(one, facts={"file": n}) for n in (1, 2, 1)]
    found = asyncio.run(grades.rewards(asked(), group))  # type: ignore[arg-type]
    assert [r.total for r in found] == [1.0, 2.0, 1.0]


def test_the_cache_refuses_what_compares_replies() -> None:
    with pytest.raises(UserError, match=r"cached\.of\.of \(Level\).*used again"):
        Cached(Clip(0, 1, Length())).open(hosted())


def test_two_caches_share_nothing() -> None:
    one, two = (Given(lambda text, n=n: Reward(n)) for n in (1.0, 2.0))
    host = hosted()
    assert totals(again(Cached(one).open(host), "a")) == [1.0]
    assert totals(again(Cached(two).open(host), "a")) == [2.0]


def test_passes_are_the_mean_at_once_and_say_how_far_they_spread() -> None:
    values = iter([1.0, 2.0, 3.0, 6.0])
    drawn = Given(lambda text: Reward(next(values), {"own": 1.0}))
    (one,) = graded(Passes(drawn, 4), "a")
    # Mean 3; deviations -2, -1, 0, 3: 14 / 4.
    assert one.total == 3.0
    assert one.parts == {"own": 1.0, "spread": pytest.approx(3.5**0.5)}


def test_passes_wait_at_the_same_time() -> None:
    slow = Numbers(seconds=0.05)

    async def timed() -> float:
        grades, loop = Passes(slow, 4).open(hosted()), asyncio.get_running_loop()
        began = loop.time()
        await grades.rewards(asked(), plays("1", "2"))
        return loop.time() - began

    assert asyncio.run(timed()) < 4 * 0.05
    assert len(slow.calls) == 4


def test_passes_have_seeds_of_their_own_and_leave_failures_out() -> None:
    seeds = []

    class Seeded(Numbers):
        def open(self, host: Any) -> Any:
            seeds.append(host.seed)
            return Given(lambda text: Reward(4.0, valid=len(seeds) == 0 or host.seed != seeds[0]))

    (one,) = graded(Passes(Seeded(), 3), "a")
    assert len(set(seeds)) == 3
    assert (one.valid, one.total, one.parts["spread"]) == (True, 4.0, 0.0)
    (none,) = graded(Passes(Numbers(), 2), "x")
    assert (none.valid, none.reason) == (False, "pass0: 'x' is no number")


def test_a_total_beyond_the_declared_range_is_invalid_with_the_reason() -> None:
    found = graded(Mix({"bound": Part(Clip(0.0, 1.0, Numbers(), "invalid"))}), "0.5", "1.5")
    assert [r.valid for r in found] == [True, False]
    assert found[1].reason == "bound: Bounded gave 1.5, outside its range of 0 to 1"
    host = hosted()
    outermost = Rewarding.of(
        Clip(0.0, 1.0, Numbers(), "invalid"), host, Ledger(), Alarms(share=0.0), "rl"
    )
    (one,) = asyncio.run(outermost.rewards(asked(), plays("-1")))  # type: ignore[arg-type]
    assert (one.valid, one.total) == (False, 0.0)


def test_a_part_that_returns_nonsense_is_named() -> None:
    broken = Given(lambda text: Reward(float("nan")))
    with pytest.raises(UserError, match=r"Given\.rewards gave a reward that is not finite"):
        graded(Mix({"a": Part(broken), "b": Part(Numbers())}), "1")


def test_a_part_that_hangs_is_ended_and_so_are_the_others() -> None:
    ended = []

    class Slow(Numbers):
        async def rewards(self, problem: Problem, trajectories: Any) -> Any:
            try:
                await asyncio.sleep(30)
            finally:
                ended.append(True)

    class Broken(Numbers):
        async def rewards(self, problem: Problem, trajectories: Any) -> Any:
            raise KeyError("lost")

    mix = Mix({"slow": Part(Slow()), "broken": Part(Broken())}).open(hosted())
    with pytest.raises(UserError, match=r"Broken\.rewards raised KeyError"):
        asyncio.run(grade(mix, asked(), plays("1")))  # type: ignore[arg-type]
    assert ended == [True]


def test_what_is_inside_begins_first_and_all_end(tmp_path: Path) -> None:
    order: list[str] = []

    class Lasting(Numbers):
        def __init__(self, name: str) -> None:
            super().__init__()
            object.__setattr__(self, "name", name)

        async def begin(self, folder: Path) -> None:
            order.append(str(folder.relative_to(tmp_path)))

        async def close(self) -> None:
            order.append(f"end {self.name}")  # type: ignore[attr-defined]
            if self.name == "b":  # type: ignore[attr-defined]
                raise OSError("stuck")

        def metrics(self) -> dict[str, float]:
            return {"judge/asked": 2.0}

    mix = Mix({"a": Part(Clip(0, 1, Lasting("a"))), "b": Part(Lasting("b"))})
    rewarding = Rewarding.of(mix, hosted(), Ledger(), Alarms(share=0.0), "rl")
    assert [name for name, _ in within(rewarding.grades)] == ["a/of", "a", "b", ""]
    asyncio.run(rewarding.begin(tmp_path, resumed=False))
    with pytest.raises(OSError, match="stuck"):
        asyncio.run(rewarding.close())
    assert order == ["a/of", "b", "end b", "end a"]
    assert rewarding.metrics() == {"judge/asked": 4.0}


NESTED = {
    "parts": {
        "z": {"reward": {"type": "clip", "low": 0, "high": 1}},
        "a": {"weight": 2, "reward": {"type": "cached", "of": {"type": "env"}}},
    }
}


def test_nested_tables_are_built_in_their_order_and_written_back() -> None:
    made = build(Mix, NESTED, "reward")
    assert list(made.parts) == ["z", "a"]
    assert made.parts["z"] == Part(Clip(0.0, 1.0, Own()))
    assert made.parts["a"] == Part(Cached(Own()), 2.0)
    assert build(Mix, table_of(made), "reward") == made
    members = {"x": {"type": "env"}, "y": {"type": "passes", "k": 3}}
    council = build(Ensemble, {"members": members}, "reward")
    assert council.members == {"x": Own(), "y": Passes(Own(), 3)}
    assert build(Ensemble, table_of(council), "reward") == council


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("mix", {"parts": {}}, "parts names no reward"),
        ("mix", {"parts": {"a": {}}}, "reward.parts.a.reward is missing"),
        ("mix", {"parts": {"a": {"reward": {"type": "nv"}}}}, r"unknown reward.parts.a.reward nv"),
        ("mix", {"parts": {"a": {"reward": {"type": "env"}, "weight": 0}}}, "one of them not 0"),
        ("ensemble", {"members": {"a": {"type": "env"}}}, "at least two"),
        ("ensemble", {"members": {"a": {"typ": "env"}}}, "reward.members.a must be a table with a"),
        ("cascade", {"levels": {"a": {"reward": {"type": "env"}}}}, "at least two"),
        (
            "cascade",
            {"levels": {n: {"reward": {"type": "env"}} for n in "ab"}},
            "levels.a leaves nothing to b",
        ),
        ("cached", {"size": 0}, "size must be at least 1"),
        ("passes", {"k": 1}, "k must be at least 2"),
        ("clip", {"low": 1, "high": 0}, "low must be below high"),
        ("log_sigmoid", {"replies": 2, "reference": 1.0}, "set one of them"),
        ("judge", {"template": "no field"}, r"template must have {reply}"),
        ("judge", {"endpoint": {"url": "example.com"}}, "url must begin with http"),
        ("judge", {"endpoint": {"ur": "http://x"}}, "did you mean reward.endpoint.url"),
        ("model", {}, "reward.path is missing"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], said: str) -> None:
    from upslope.names import reward_of
    from upslope.settings import Component

    assert name in REWARDS
    with pytest.raises(UserError, match=said):
        reward_of(Component(type=name, **settings))
