"""The alarm on collapse: on runs that learned and runs that broke, and what is then done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from records import group
from upslope.alarms import LASTING, Collapse, Signs, checked
from upslope.launch import train_recipe
from upslope.learner import Learner
from upslope.models.load import load
from upslope.recipe import read
from upslope.types import Action, Group, Metrics, UserError

PLAYS = Path(__file__).with_name("plays.py")
# From runs of benchmarks/collapse.py. The sound one is older; its entropy is a bound from below,
# the surprise of the rows that were learned from, times their share.
COLUMNS = json.loads(Path(__file__).with_name("collapses.json").read_text(encoding="utf-8"))
RECORDED = {
    name: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for name, columns in COLUMNS.items()
}
STEADY = {
    "reward/mean": 0.3,
    "reward/max": 1.0,
    "reward/min": 0.0,
    "reward/std": 0.4,
    "reward/invalid_share": 0.0,
    "groups/used": 64.0,
    "entropy/sampled": 1.0,
    "answers/distinct_share": 0.8,
    "answers/common_share": 0.1,
    "answers/gold_share": 0.1,
    "groups/mixed_share": 0.9,
}


def rows(steps: int, **ends: float) -> list[dict[str, float]]:
    """Ten steady rows, and then a way, even, to other values."""
    named = {name.replace("__", "/"): end for name, end in ends.items()}
    found = [dict(STEADY)] * 10
    for i in range(1, steps + 1):
        moved = {n: STEADY[n] + i / steps * (end - STEADY[n]) for n, end in named.items()}
        found.append(STEADY | moved)
    return found


def alarms(given: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Each sign that lasted, with its row, from 1."""
    signs, lasted, found = Signs(), {}, []
    for i, row in enumerate(given, 1):
        near = signs.take(row)
        lasted = {name: lasted.get(name, 0) + 1 for name, size in near.items() if size >= 1}
        found += [(i, name) for name, n in lasted.items() if n == LASTING]
    return found


def test_variety_that_is_paid_for_in_reward_is_no_alarm():
    learned = {"reward__mean": 0.97, "entropy__sampled": 0.02, "groups__mixed_share": 0.05}
    assert alarms(rows(200, **learned) + rows(1, **learned)[-1:] * 800) == []


@pytest.mark.parametrize(
    ("ends", "sign"),
    [
        ({"entropy__sampled": 0.05}, "entropy"),
        ({"answers__distinct_share": 0.1}, "different answers"),
        ({"groups__mixed_share": 0.0}, "groups that differ"),
        ({"answers__common_share": 1.0, "reward__mean": 1.0}, "one answer for all"),
        ({"reward__mean": 0.0}, "reward"),
    ],
)
def test_each_sign_raises_the_alarm_alone_before_it_is_all_over(ends, sign):
    found = alarms(rows(60, **ends))
    assert found[0][1] == sign
    assert {name for _, name in found} == {sign}
    assert 10 < found[0][0] < 65


def test_the_size_of_a_loss_by_hand():
    signs = Signs()
    for _ in range(10):
        signs.take(STEADY)
    # The moving average goes half of the way: entropy 0.6, reward 0.4 of the best 1.
    near = signs.take(STEADY | {"entropy/sampled": 0.2, "reward/mean": 0.5})
    assert near["entropy"] == pytest.approx((0.4 - 0.1 / 0.7) / 0.6)
    assert near["reward"] == 0
    near = signs.take(STEADY | {"answers/common_share": 0.5, "reward/mean": 0.2})
    assert near["one answer for all"] == pytest.approx((0.3 - 0.1) / 0.9 / 0.3)
    allowed = max(5 * math.sqrt(0.4**2 / 64 / 3), 0.3 * 0.4)
    assert near["reward"] == pytest.approx((0.4 - 0.3) / allowed)


def test_what_problems_have_in_common_is_not_blamed_on_the_policy():
    same = {"answers/gold_share": 1.0}
    assert alarms([row | same for row in rows(60, answers__common_share=1.0)]) == []


@pytest.mark.parametrize("name", [n for n in RECORDED if n.startswith("clean")])
def test_runs_that_learn_raise_no_alarm(name):
    assert len(RECORDED[name]) >= 50
    assert alarms(RECORDED[name]) == []


@pytest.mark.parametrize("name", [n for n in RECORDED if not n.startswith("clean")])
def test_runs_that_break_raise_it_before_the_end(name):
    found = alarms(RECORDED[name])
    assert found
    assert found[0][0] < 0.8 * len(RECORDED[name])


class Rows:
    """A run as the watch reads it."""

    def __init__(self, before: Sequence[Mapping[str, Any]] = ()) -> None:
        self.before = before

    def metrics(self) -> Sequence[Mapping[str, Any]]:
        return self.before


def seen(watch: Collapse, given: Sequence[Metrics], first: int = 1) -> dict[int, Sequence[Action]]:
    """What it asked for, by step."""
    some = [group([1.0, 0.0])]
    found = {i: watch.see("rl", i, some, row) for i, row in enumerate(given, first)}
    return {step: actions for step, actions in found.items() if actions}


FALLING = rows(20, reward__mean=0.0)


def test_an_alarm_is_said_once_and_does_what_it_was_asked_to():
    said: list[str] = []
    assert seen(Collapse(Rows(), said.append), FALLING) == {}
    (line,) = said
    step = int(line.split("step ")[1].split(":")[0])
    assert line.startswith("  collapse? step ")
    assert "reward" in line
    assert seen(Collapse(Rows(), said.append, "stop"), FALLING) == {step: ("stop",)}
    watch = Collapse(Rows(), said.append, "rollback")
    asked = seen(watch, FALLING + FALLING + FALLING)
    first, second, third = asked.values()
    assert first == (watch_calm(line),)
    assert second[0] > step
    assert third == ("stop",)


def watch_calm(line: str) -> int:
    return int(line.rsplit(" ", 1)[1])


def test_evaluations_and_recorded_data_are_not_looked_at():
    watch = Collapse(Rows(), lambda line: None, "stop")
    assert watch.see("rl", 1, (), {}) == ()
    assert watch.see("sft", 1, [group([1.0])], {"reward/mean": 0.0}) == ()


@pytest.mark.parametrize("nothing", [{"reward/invalid_share": 1.0}, {"groups/recorded": 64.0}])
def test_a_step_that_says_nothing_of_the_policy_is_no_fall(nothing: dict[str, float]):
    """A judge that was down for three steps; three steps of recorded groups alone."""
    down = {**STEADY, "reward/mean": 0.0, "reward/max": 0.0, "reward/std": 0.0}
    said: list[str] = []
    assert not seen(Collapse(Rows(), said.append, "stop"), rows(5) + [down | nothing] * 3 + rows(5))
    assert said == []
    assert seen(Collapse(Rows(), said.append, "stop"), rows(5) + [down] * 3 + rows(5))


def test_a_resumed_run_knows_of_its_roll_backs():
    """After a roll-back the steps begin anew, and those of before are still counted."""
    whole: list[str] = []
    watch = Collapse(Rows(), whole.append, "rollback")
    (step, back), *_ = seen(watch, FALLING).items()
    assert back[0] < step
    after = step + 2  # the roll-back has a version of its own
    rows_before = [{**row, "step": i, "stage": "rl"} for i, row in enumerate(FALLING[:step], 1)]
    for more in (0, 3):  # killed right after it, and some steps later
        rest = [{**STEADY, "step": after + i, "stage": "rl"} for i in range(more)]
        resumed = Collapse(Rows(rows_before + rest), whole.append, "rollback")
        assert resumed.see("rl", after + more, [group([1.0, 0.0])], dict(STEADY)) == ()
        assert (resumed.rolls, resumed.signs.seen) == (1, more + 1)


def test_a_resumed_run_is_watched_as_if_it_had_not_ended():
    whole: list[str] = []
    seen(Collapse(Rows(), whole.append), FALLING)
    before = [{**row, "step": i, "stage": "rl"} for i, row in enumerate(FALLING[:12], 1)]
    others = [{"stage": "sft", "step": 0, "reward/mean": 9.0}]
    resumed: list[str] = []
    seen(Collapse(Rows([*others, *before]), resumed.append), FALLING[12:], 13)
    assert resumed == whole


RECIPE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": f"{PLAYS}:Digits"},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 4, "group": 4, "max_tokens": 1},
    "learner": {"lr": 1e-2},
    "evaluation": {"problems": 1},
    "checkpoint": {"every": 2, "keep": 3},
    "stop": {"steps": 8},
    "machine": {"threads": 1},
    "check": {"enabled": False},
}


class Asks:
    """Asks once for weights of a step."""

    def __init__(self, step: int, back: int) -> None:
        self.step, self.back = step, back

    def see(
        self, stage: str, step: int, groups: Sequence[Group], metrics: Metrics
    ) -> Sequence[Action]:
        return (self.back,) if groups and step == self.step else ()


def test_a_roll_back_puts_old_weights_under_a_new_version(tmp_path, monkeypatch):
    kept: list[torch.Tensor] = []
    plain = Learner.load_state

    def noted(self: Learner, state: Mapping[str, Any]) -> None:
        plain(self, state)
        kept.append(torch.cat([p.detach().flatten().clone() for _, p in self.policy.trained()]))

    monkeypatch.setattr(Learner, "load_state", noted)
    recipe = read({**RECIPE, "runs": str(tmp_path)})
    run = train_recipe(recipe, lambda line: None, watches=[Asks(5, 3)])
    steps = [row["step"] for row in run.metrics()]
    assert steps == [1, 2, 3, 4, 5, 7, 8]  # version 6 is the old weights
    (weights,) = kept
    again = load(str(run.latest(6) / "model"))
    saved = torch.cat([p.detach().flatten() for _, p in again.trained()])
    assert torch.equal(saved, weights)
    # A run that ended at step 2 has the same weights.
    short = read({**RECIPE, "runs": str(tmp_path), "name": "short"}, ["stop.steps=2"])
    ended = load(str(train_recipe(short, lambda line: None).path / "model"))
    assert torch.equal(torch.cat([p.detach().flatten() for _, p in ended.trained()]), weights)
    assert run.result().steps == 8


def test_without_a_checkpoint_as_old_the_run_stops(tmp_path):
    recipe = read({**RECIPE, "runs": str(tmp_path)})
    run = train_recipe(recipe, lambda line: None, watches=[Asks(5, 1)])
    assert (run.result().steps, run.result().stopped_by) == (5, "watch")


def test_what_cannot_be_asked_for_is_refused_before_anything_is_spent(tmp_path):
    bare = read({**RECIPE, "runs": str(tmp_path)}, ["checkpoint.every=0"])
    with pytest.raises(UserError, match=r"stage train has checkpoint.every=0: set it"):
        train_recipe(bare, lambda line: None, on_collapse="rollback")
    with pytest.raises(UserError, match="must be one of say, stop, rollback, not halt"):
        train_recipe(bare, lambda line: None, on_collapse="halt")
    assert not list(tmp_path.iterdir())
    assert checked("stop", bare.stages()) == "stop"
