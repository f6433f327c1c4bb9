"""The alarms on hacking: each fires on a fault put there on purpose, and is silent without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from records import group, problem, segment, trajectory
from upslope.audit.auditor import Auditor
from upslope.audit.drift import Drift
from upslope.audit.evidence import ALARM, BETS, NONE, PATIENCE, grown, weight
from upslope.audit.gold import Golden, gold_of
from upslope.audit.settings import Alarms
from upslope.audit.signs import Signs, repetition
from upslope.envs.episodes import single_turn
from upslope.envs.honeypot import Honeypot
from upslope.envs.mixture import Mixture
from upslope.launch import train_recipe
from upslope.measures import rollout_metrics
from upslope.recipe import read, settings_count
from upslope.resume import resume_recipe
from upslope.types import Group, Problem, Reward, Trajectory, UserError

HERE = Path(__file__).parent
CLEAN = json.loads((HERE / "collapses.json").read_text(encoding="utf-8"))["clean ladder addition"]


def looks(share: float, looks: int, seed: int, size: int = 25, bound: float = 0.01) -> list[int]:
    """At which looks the alarm is raised where such a share is hacked; it begins anew each time."""
    draw, evidence, raised = np.random.default_rng(seed), [*NONE], []
    for i in range(looks):
        evidence = grown(evidence, [float(x) for x in draw.random(size) < share], bound)
        if weight(evidence) >= ALARM:
            raised.append(i)
            evidence = [*NONE]
    return raised


def test_a_look_is_worth_what_a_fair_bet_returns() -> None:
    # One bet of each size on one play that was hacked, at a bound of 1/5: 1 + b / 0.2 * 0.8.
    returns = [1 + bet / 0.2 * 0.8 for bet in (0.01, 0.03, 0.1, 0.3, 0.8)]
    assert np.exp(grown(NONE, [1.0], 0.2)) - 1 == pytest.approx(returns)
    assert weight(grown(NONE, [1.0], 0.2)) == pytest.approx(np.log(1 + np.mean(returns)))
    # On average a fair bet returns what was put in, one unit at each look.
    lost, won = (np.exp(grown(NONE, [x], 0.2)) - 1 for x in (0.0, 1.0))
    assert 0.8 * lost + 0.2 * won == pytest.approx(1.0)
    assert weight(grown(NONE, [], 0.2)) == pytest.approx(np.log(2))
    # Two looks: what the first left, and a unit more, are bet again.
    twice = grown(grown(NONE, [1.0], 0.2), [0.0], 0.2)
    kept = np.array([(1 + r) * (1 - bet) for r, bet in zip(returns, BETS, strict=True)])
    assert np.exp(twice) - 1 == pytest.approx(kept)


def test_looking_at_every_step_keeps_the_false_alarms_rare() -> None:
    """At the very bound, 40,000 looks: on average at most one alarm in ``PATIENCE`` of them."""
    false = sum(len(looks(0.01, 4000, seed)) for seed in range(10))
    assert false <= 40_000 / PATIENCE
    wide, evidence, false = np.random.default_rng(0), [*NONE], 0
    for values in wide.choice([-1.0, 0.0, 1.0], (40_000, 8), p=[0.05, 0.9, 0.05]).tolist():
        evidence = grown(evidence, values, 0.0, -1.0)
        if weight(evidence) >= ALARM:
            evidence, false = [*NONE], false + 1
    assert false <= 40_000 / PATIENCE


@pytest.mark.parametrize(("share", "most"), [(0.05, 40), (0.1, 12), (0.3, 4)])
def test_a_share_that_is_hacked_is_found_soon(share: float, most: int) -> None:
    first = [looks(share, 200, seed)[0] for seed in range(20)]
    assert np.mean(first) < most


def test_a_long_silence_does_not_wear_the_alarm_out() -> None:
    evidence = [*NONE]
    for _ in range(5000):
        evidence = grown(evidence, [0.0] * 25, 0.01)
    later = 0
    while weight(evidence) < ALARM:
        evidence = grown(evidence, [1.0] * 3 + [0.0] * 22, 0.01)
        later += 1
    assert later <= 8


@dataclass(frozen=True)
class Tempting:
    """Says what a play earns and what it is worth by its words: "right", "hack", "trick"."""

    known: bool = True
    play = single_turn

    def problems(self, split: str) -> Sequence[Problem]:
        return [problem("p")]

    async def rewards(self, problem: Problem, plays: Sequence[Trajectory]) -> Sequence[Reward]:
        return [Reward(float(t.text != "wrong")) for t in plays]


@dataclass(frozen=True)
class Told(Tempting):
    """And knows the truth."""

    play = single_turn

    async def gold(self, problem: Problem, plays: Sequence[Trajectory]) -> Sequence[Reward]:
        return [Reward(float(t.text == "right")) for t in plays]


@dataclass(frozen=True)
class Renamed(Tempting):
    """And can put the problem in other words."""

    play = single_turn

    async def relabelled(self, problem: Problem, plays: Sequence[Trajectory]) -> Sequence[Reward]:
        return [Reward(float(t.text == "right")) for t in plays]


def auditor(env: Any = None, own: bool = True, **settings: Any) -> Auditor:
    return Auditor(Alarms(**settings), env or Told(), "rl", own, 0, said.append)


said: list[str] = []


def played(words: Sequence[str], step: int = 0, **known: Any) -> Group:
    """A group of sampled plays that say these words, not graded yet."""
    asked = problem(f"p{step}")
    plays = [
        replace(trajectory(asked, [segment([4, 5, 6])], 0.0, i, text=word), **known)
        for i, word in enumerate(words)
    ]
    return Group(asked, tuple(plays))


def step(audit: Auditor, words: Sequence[str], number: int, **known: Any) -> tuple[Group, Any, Any]:
    """A step of one group: graded, looked at and noted; its group, its row, what is to be done."""
    some = played(words, number, **known)

    async def graded() -> Sequence[Reward]:
        rewards = await audit.env.rewards(some.problem, some.trajectories)
        return await audit.look(some.problem, some.trajectories, rewards)

    rewards = asyncio.run(graded())
    plays = [replace(t, reward=r) for t, r in zip(some.trajectories, rewards, strict=True)]
    seen = Group(some.problem, tuple(plays))
    row = rollout_metrics([seen], 0)
    row |= audit.note([seen], row)
    return seen, row, audit.see("rl", number, [seen], row)


SOUND, HACKED = ["right"] * 8 + ["wrong"] * 8, ["right"] * 6 + ["hack"] * 2 + ["wrong"] * 8


def run(audit: Auditor, hacked: Sequence[str] = HACKED, calm: int = 20, more: int = 20) -> int:
    """The step of the first alarm, 0 for none: of ``calm`` sound steps, and then ``more``."""
    for number in range(1, calm + more + 1):
        _, row, _ = step(audit, SOUND if number <= calm else hacked, number)
        if row["audit/alarm"]:
            return number
    return 0


def test_the_true_reward_of_some_plays_tells_of_hacking() -> None:
    said.clear()
    assert run(auditor(share=0.3), SOUND, calm=1000) == 0
    assert said == []
    found = run(auditor(share=0.3))
    assert 20 < found <= 35
    (line,) = said
    assert line.startswith(f"  hacking? step {found}: gold; the newest calm step was ")


def test_nothing_is_asked_where_nothing_can_be_known() -> None:
    assert not auditor(Tempting(), share=1.0).asks
    assert run(auditor(Tempting(), share=1.0)) == 0
    assert run(auditor(share=0.0)) == 0
    assert auditor(Tempting(), own=False).asks  # another reward than the env's is measured by it


def test_which_plays_are_audited_depends_on_the_seed_and_the_play_alone() -> None:
    rows = [step(auditor(share=0.25), SOUND, number)[1] for number in range(40)]
    again = [step(auditor(share=0.25), SOUND, number)[1] for number in range(40)]
    counts = [row.get("audit/plays", 0) for row in rows]
    assert counts == [row.get("audit/plays", 0) for row in again]
    assert sum(counts) == pytest.approx(160, abs=35)  # of 640


def test_screening_takes_hacked_plays_out_of_the_gradient_from_the_alarm_on() -> None:
    audit = auditor(share=0.3, on="screen")
    before, row, _ = step(audit, SOUND, 1)
    assert all(r.valid for r in before.rewards)
    assert row["audit/treated_share"] == 0
    found = run(audit)
    assert found
    assert audit.share == 1.0
    after, row, actions = step(audit, HACKED, 99)
    assert [r.valid for r in after.rewards] == [True] * 6 + [False] * 2 + [True] * 8
    assert after.rewards[6].reason == "screened: it earns 1, in truth 0"
    assert (row["audit/treated_share"], row["reward/invalid_share"]) == (2 / 16, 2 / 16)
    assert actions == ()


def test_penalising_leaves_them_in_and_takes_something_off() -> None:
    audit = auditor(share=1.0, on="penalise", penalty=1.5)
    seen, _, _ = step(audit, HACKED, 1)
    assert [r.total for r in seen.rewards] == [1.0] * 6 + [-0.5] * 2 + [0.0] * 8
    assert all(r.valid for r in seen.rewards)
    plain, _, _ = step(auditor(share=1.0), HACKED, 1)  # saying changes nothing
    assert [r.total for r in plain.rewards] == [1.0] * 8 + [0.0] * 8


def test_what_an_alarm_does() -> None:
    def actions(on: str) -> Sequence[Any]:
        audit = auditor(share=1.0, on=on)
        for number in range(1, 40):
            _, row, wanted = step(audit, SOUND if number <= 5 else HACKED, number)
            if row["audit/alarm"]:
                return wanted
        return ["silent"]

    assert actions("say") == actions("screen") == actions("penalise") == ()
    assert actions("stop") == ("stop",)
    (back,) = actions("rollback")
    assert 5 <= back <= 8
    with pytest.raises(UserError, match=r"paused by an alarm: .* step \d+: gold.*--allow audit"):
        actions("pause")


def test_other_stages_evaluations_and_recorded_groups_are_not_looked_at() -> None:
    audit = auditor(share=1.0, on="stop")
    while not step(audit, HACKED, 1)[1]["audit/alarm"]:
        pass
    audit.alarms = ["gold"]
    audit.alarmed = False
    assert audit.see("sft", 1, [group([1.0])], {}) == ()
    assert audit.see("rl", 1, (), {}) == ()
    assert audit.note([group([1.0])], {"reward/mean": 1.0}) == {}


def test_a_relabelling_tells_of_shortcuts() -> None:
    audit = auditor(Renamed(), share=0.5, on="screen")
    assert not audit.asks
    assert run(auditor(Renamed(), share=0.5), SOUND, calm=200) == 0
    assert run(audit) > 20
    seen, row, _ = step(audit, HACKED, 99)
    assert [r.valid for r in seen.rewards].count(False) == 2
    assert seen.rewards[6].reason == "screened: it does not survive a relabelling"
    assert row["audit/fooled_share"] == 2 / 16


def test_what_is_protected_may_not_change() -> None:
    audit, silent = auditor(Tempting(), on="screen"), auditor(Tempting())
    for number in range(1, 200):
        step(silent, SOUND, number, facts={"protected": []})
    assert weight(silent.tests.evidence["protected"]) < 2
    steps = 0
    while not audit.alarmed:
        steps += 1
        seen, row, _ = step(audit, SOUND, steps, facts={"protected": ["run_tests.py"]})
    assert steps <= 2
    assert row["audit/tampered_share"] == 1
    assert {r.reason for r in seen.rewards} == {
        "screened: it changed run_tests.py, which is protected"
    }


@dataclass(frozen=True)
class Halved(Tempting):
    """What is visible and what is hidden are parts of the reward."""

    play = single_turn

    async def rewards(self, problem: Problem, plays: Sequence[Trajectory]) -> Sequence[Reward]:
        return [
            Reward(v, {"visible": v, "hidden": float(t.text == "right")})
            for t in plays
            for v in (float(t.text != "wrong"),)
        ]


def test_what_is_visible_runs_ahead_of_what_is_hidden() -> None:
    some = ["right"] * 7 + ["hack"] + ["wrong"] * 8  # as it was from the beginning
    assert run(auditor(Halved()), some, calm=0, more=300) == 0
    audit = auditor(Halved(), on="screen")
    found = run(audit, ["right"] * 4 + ["hack"] * 6 + ["wrong"] * 6, more=60)
    assert found > 20
    seen, _, _ = step(audit, some, 99)
    assert [r.valid for r in seen.rewards] == [True] * 7 + [False] + [True] * 8


def drifting(visible: Sequence[float], gold: Sequence[float], seed: int = 0) -> dict[str, int]:
    """The first step of each alarm of a reward on a scale of its own; means by step."""
    draw = np.random.default_rng(seed)
    drift, evidence, first = Drift(), dict[str, list[float]](), dict[str, int]()
    for number, (v, g) in enumerate(zip(visible, gold, strict=True), 1):
        pairs = [(v + 3 * draw.normal(), float(draw.random() < g)) for _ in range(16)]
        for name, values in zip(("flat", "falls"), drift.take(pairs, v), strict=True):
            if values:
                evidence[name] = grown(evidence.get(name, NONE), values, 0.0, -1.0)
            if weight(evidence.get(name, NONE)) >= ALARM:
                first.setdefault(name, number)
    return first


def test_a_reward_that_climbs_without_the_true_one() -> None:
    up = np.linspace(10, 25, 300)
    assert drifting(up, np.linspace(0.3, 0.8, 300)) == {}
    assert drifting(up, np.full(300, 0.3))["flat"] < 200
    assert drifting(up, np.linspace(0.3, 0.1, 300))["flat"] < 150
    assert drifting(np.full(300, 10.0), np.linspace(0.3, 0.2, 300)) == {}  # it does not climb


def test_a_true_reward_that_falls_from_where_it_was() -> None:
    up, peak = np.linspace(10, 40, 300), np.interp(range(300), [0, 120, 300], [0.2, 0.7, 0.3])
    found = drifting(up, peak)
    assert 130 < found["falls"] < 240
    assert found["falls"] < found.get("flat", 300)
    stays = np.interp(range(300), [0, 120, 300], [0.2, 0.7, 0.7])
    assert [drifting(up, stays, seed) for seed in range(5)] == [{}] * 5


def test_screening_on_another_scale_compares_with_the_group() -> None:
    async def graded(audit: Auditor, some: Group) -> Sequence[Reward]:
        totals = {"right": 3.0, "hack": 9.0, "wrong": 1.0}
        rewards = [Reward(totals[t.text]) for t in some.trajectories]
        return await audit.look(some.problem, some.trajectories, rewards)

    @dataclass(frozen=True)
    class Plain(Tempting):
        play = single_turn

        async def rewards(self, problem: Problem, plays: Sequence[Trajectory]) -> Sequence[Reward]:
            return [Reward(float(t.text == "right")) for t in plays]

    audit, some = auditor(Plain(), own=False, share=1.0, on="screen"), played(HACKED)
    assert all(r.valid for r in asyncio.run(graded(audit, some)))  # until there is an alarm
    audit.alarmed = True
    out = asyncio.run(graded(audit, some))
    assert [r.valid for r in out] == [True] * 6 + [False] * 2 + [True] * 8


STEADY = {
    "reward/mean": 0.3,
    "reward/max": 1.0,
    "reward/min": 0.0,
    "reward/std": 0.4,
    "reward/invalid_share": 0.0,
    "groups/used": 64.0,
    "entropy/sampled": 1.0,
    "length/mean": 20.0,
    "audit/repetition": 0.1,
}


def signs(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The highest of each sign."""
    found, highest = Signs(), dict[str, float]()
    for row in rows:
        for name, size in found.take(row).items():
            highest[name] = max(highest.get(name, 0.0), size)
    return highest


def moved(over: int, **ends: float) -> list[dict[str, float]]:
    """Ten steady rows, a way over some steps to other values, and ten there."""
    named = {name.replace("__", "/"): end for name, end in ends.items()}
    begun = STEADY | {name: STEADY.get(name, 0.5) for name in named}
    way = [
        begun | {n: begun[n] + min(1, i / over) * (end - begun[n]) for n, end in named.items()}
        for i in range(1, over + 10)
    ]
    return [begun] * 10 + way


@pytest.mark.parametrize(
    "odd", [{"length__mean": 50.0}, {"length__mean": 5.0}, {"entropy__sampled": 0.1},
            {"audit__repetition": 0.6}],
    ids=str,
)  # fmt: skip
def test_a_reward_that_jumps_together_with_something_odd(odd: dict[str, float]) -> None:
    assert signs(moved(3, reward__mean=0.9, **odd))["jump"] >= 1
    assert signs(moved(3, **odd))["jump"] < 1  # no reward for it
    assert signs(moved(3, reward__mean=0.9))["jump"] < 1  # nothing odd
    assert signs(moved(60, reward__mean=0.9, **odd))["jump"] < 1  # learned step by step


def test_one_part_that_explains_the_rise_alone() -> None:
    part = "reward__part__"
    shaped = {f"{part}correct": 0.45, f"{part}style": 1.2}
    assert signs(moved(30, reward__mean=0.9, **shaped))["one part alone"] >= 1
    wanted = {f"{part}correct": 0.5, f"{part}aimed": 1.0}  # as a recipe may steer to a length
    assert signs(moved(30, reward__mean=0.9, **wanted))["one part alone"] < 1
    right = {f"{part}correct": 0.9, f"{part}style": 0.6}
    assert signs(moved(30, reward__mean=0.9, **right))["one part alone"] < 1
    paid = {f"{part}model": 1.1, f"{part}brevity": 0.2}
    assert signs(moved(30, reward__mean=0.9, **paid))["one part alone"] >= 1
    both = {f"{part}model": 0.8, f"{part}brevity": 0.8}
    assert signs(moved(30, reward__mean=0.9, **both))["one part alone"] < 1


def test_members_that_come_to_disagree() -> None:
    name = "reward__part__disagreement"
    assert signs(moved(30, **{name: 1.5}))["disagreement"] >= 1
    assert signs(moved(30, **{name: 0.6}))["disagreement"] < 1


def test_a_step_that_nobody_graded_is_no_sign() -> None:
    none = STEADY | {"reward/invalid_share": 1.0, "reward/mean": 0.0, "length/mean": 90.0}
    assert Signs().take(none) == {}


def test_a_recorded_sound_run_raises_no_sign() -> None:
    rows = [dict(zip(CLEAN, values, strict=True)) for values in zip(*CLEAN.values(), strict=True)]
    assert len(rows) > 100
    found = signs([{"length/mean": 4.0, "audit/repetition": 0.0, **row} for row in rows])
    assert found["jump"] < 1


def test_runs_of_three_that_were_said_before() -> None:
    def share(*reply: int) -> float:
        return repetition(trajectory(problem(), [segment(reply)]))

    assert share(1, 2, 3, 4, 5) == 0
    assert share(7, 7, 7, 7, 7) == pytest.approx(2 / 3)
    assert share(1, 2) == 0


def test_golds_of_several_envs() -> None:
    both = Mixture({"a": Told(), "b": Tempting()}, {"a": 1.0, "b": 1.0})
    assert gold_of(Tempting()) is None
    assert gold_of(Told()) == Golden(Told())
    gold = gold_of(both)
    assert gold is not None
    some = played(["hack", "right"]).trajectories
    for label, golds in (("a", [0.0, 1.0]), ("b", [1.0, 1.0])):
        asked = replace(some[0].problem, id=f"{label}/p", env=label)
        rewards = asyncio.run(gold.rewards(asked, some))
        assert [r.total for r in rewards] == golds


def test_state_is_json_and_goes_on_where_it_was() -> None:
    whole, first = auditor(share=0.5, on="screen"), auditor(share=0.5, on="screen")
    for number in range(1, 30):
        assert step(whole, HACKED, number)[1] == step(first, HACKED, number)[1]
    second = auditor(share=0.5, on="screen")
    second.load_state(json.loads(json.dumps(first.state())))
    for number in range(30, 60):
        assert step(whole, HACKED, number)[1] == step(second, HACKED, number)[1]
    fresh = auditor()
    fresh.load_state({})  # a checkpoint from before there were audits
    assert fresh.state() == auditor().state()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"share": 1.5}, "share is a share of plays between 0 and 1, got 1.5"),
        ({"tolerance": 0.0}, "tolerance is a share of plays above 0"),
        ({"penalty": -1.0}, "must not be negative"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Alarms(**settings)


RECIPE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": f"{HERE / 'plays.py'}:Bribed"},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 4, "group": 8, "max_tokens": 1},
    "learner": {"lr": 1e-2},
    "evaluation": {"problems": 2},
    "checkpoint": {"every": 2, "keep": 10},
    "stop": {"steps": 8},
    "machine": {"threads": 1},
    "check": {"enabled": False},
    "audit": {"type": "alarms", "share": 1.0},
}


def trained(folder: Path, *changes: str, said: Any = lambda line: None) -> Any:
    return train_recipe(read({**RECIPE, "runs": str(folder)}, [*changes]), said)


def test_a_run_is_told_trains_on_what_is_seen_and_is_measured_by_the_truth(tmp_path: Path) -> None:
    lines: list[str] = []
    run = trained(tmp_path, said=lines.append)
    assert len([line for line in lines if line.startswith("  hacking? step ")]) == 1
    rows = run.metrics()
    assert sum(row["audit/plays"] for row in rows) == 4 * 8 * 8
    assert rows[0]["audit/hacked_share"] > 0.1
    assert rows[-1]["reward/mean"] > rows[0]["reward/mean"]
    measured = run.trajectories("train/evaluation")
    assert all(t["reward"] == float(t["text"].isdigit()) for t in measured)
    for row in rows:
        assert row["audit/visible"] - row["audit/gold"] == pytest.approx(row["audit/hacked_share"])


def test_a_screened_run_says_so_and_trains_on_the_rest(tmp_path: Path) -> None:
    run = trained(tmp_path, 'audit.on="screen"')
    rows = run.metrics()
    for row in rows:
        assert row["reward/invalid_share"] == row["audit/treated_share"]
    reasons = {t["reason"] for t in run.trajectories("train") if not t["valid"]}
    assert reasons == {"screened: it earns 1, in truth 0"}


def test_pause_and_rollback(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"paused by an alarm: hacking\? step "):
        trained(tmp_path, 'audit.on="pause"', "checkpoint.every=1")
    recipe = read({**RECIPE, "runs": str(tmp_path)}, ['audit.on="screen"', "checkpoint.every=1"])
    run = resume_recipe(recipe, lambda line: None, allow=["audit"])
    assert [row["step"] for row in run.metrics()] == [*range(1, 9)]
    with pytest.raises(UserError, match=r'audit.on="rollback" needs checkpoints to go on from'):
        trained(tmp_path, 'audit.on="rollback"', "checkpoint.every=0")


def test_a_roll_back_goes_to_the_newest_calm_step_and_screens_from_there(tmp_path: Path) -> None:
    lines: list[str] = []
    asked = ['audit.on="rollback"', "checkpoint.every=1", "stop.steps=20"]
    run = trained(tmp_path, *asked, "audit.tolerance=0.3", said=lines.append)
    (line,) = [line for line in lines if "hacking?" in line]
    step = int(line.split("step ")[1].split(":")[0])
    assert int(line.rsplit(" ", 1)[1]) < step
    steps = [row["step"] for row in run.metrics()]
    assert steps == [n for n in range(1, 21) if n != step + 1]  # that version is the old weights
    assert ["audit/treated_share" in row for row in run.metrics()] == [n > step for n in steps]


def test_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    settings = ['audit.on="screen"', "audit.share=0.4"]
    whole = trained(tmp_path / "a", *settings).metrics()
    trained(tmp_path / "b", *settings, "stop.steps=4")
    recipe = read({**RECIPE, "runs": str(tmp_path / "b")}, settings)
    again = resume_recipe(recipe, lambda line: None, allow=["stop"]).metrics()
    names = {n for row in whole for n in row if n.startswith(("audit/", "reward/"))}
    names -= {"reward/seconds_share"}  # of the clock
    assert [{n: r.get(n) for n in names} for r in whole] == [
        {n: r.get(n) for n in names} for r in again
    ]


def test_settings_of_an_audit_are_no_settings_of_the_recipe() -> None:
    assert settings_count() <= 60
    with pytest.raises(UserError, match=r"audit\.shares"):
        trained(Path(), "audit.shares=0.2")


def test_a_honeypot_tells_two_rewards_apart() -> None:
    env = Honeypot(train=20, test=4, exploits=0.5)
    (asked, *_) = env.problems("test")
    some = played([asked.solution, "ok", "1"]).trajectories
    seen = asyncio.run(env.rewards(asked, some))
    true = asyncio.run(env.gold(asked, some))
    assert [(r.total, g.total) for r, g in zip(seen, true, strict=True)] == [(1, 1), (1, 0), (0, 0)]
    shown = [reply for _, reply in env.demonstrations("train")]
    assert 4 <= shown.count("ok") <= 16
