"""Constraints: the rules of multipliers, costs of a batch, the algorithm around another, a run."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from records import Interrupt, group, invalid, problem, segment, trajectory, untimed
from test_train import BANDIT, DIGITS, silent, trained
from upslope import costs
from upslope.advantages import Overlong
from upslope.algorithms.constrained import Constrained
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.gigpo import GiGPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.reinforce import Reinforce
from upslope.algorithms.rloo import RLOO
from upslope.batch import Batch, Outputs
from upslope.components import build, table_of
from upslope.constraints import AVERAGE, Constraint
from upslope.launch import prove, train_recipe
from upslope.losses import KL
from upslope.measures import rollout_metrics
from upslope.recipe import read
from upslope.resume import resume_recipe
from upslope.session import Session
from upslope.types import Group, Reward, Trajectory, UserError

BENCH: Any = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "constraints.py"))


def multipliers(limit: Constraint, seen: list[float]) -> list[float]:
    """After each of these costs."""
    state, out = limit.begin(), []
    for cost in seen:
        state = limit.advance(state, cost)
        out.append(state["multiplier"])
    return out


# The rules.


def test_a_multiplier_rises_by_its_excess_and_never_below_0() -> None:
    rule = Constraint(1.0, rate=0.5, start=0.25, most=2.0)
    assert multipliers(rule, [2.0, 0.0, -1.0, 9.0]) == pytest.approx([0.75, 0.25, 0.0, 2.0])


def test_its_logarithm_rises_by_rate_and_itself() -> None:
    rule = Constraint(1.0, "log", rate=0.5, start=0.2)
    first = 0.2 * np.exp(0.5 * 0.2 * 1.0)
    second = first * np.exp(0.5 * first * -0.5)
    assert multipliers(rule, [2.0, 0.5]) == pytest.approx([first, second])
    assert multipliers(Constraint(0.0, "log", rate=1e9, start=1.0), [1e9]) == [100.0]


def test_its_logarithm_comes_back_from_a_step_far_under_budget() -> None:
    rule = Constraint(0.0, "log", rate=0.5, start=2.0)
    low, later = multipliers(rule, [-750.0, 100.0])
    assert low == 0.02
    assert later == pytest.approx(0.02 * np.exp(0.5 * 0.02 * 100))
    # Nor is one that a run began with another rule left at 0.
    assert rule.advance({**rule.begin(), "multiplier": 0.0, "integral": 0.0}, 1.0)["integral"] > 0


def test_pid_is_its_definition() -> None:
    """Written again after Stooke et al., arXiv:2007.03964, with moving averages for P and D."""
    rule = Constraint(
        1.0, "pid", rate=0.1, start=0.3, proportional=0.4, derivative=2.0, smoothing=0.6
    )
    draw = np.random.default_rng(0)
    seen = (1 + draw.normal(size=20)).tolist()
    want, integral, smooth, level = [], 0.3, None, None
    for cost in seen:
        integral = max(0.0, integral + 0.1 * (cost - 1))
        smooth = cost - 1 if smooth is None else 0.6 * smooth + 0.4 * (cost - 1)
        before, level = level, cost if level is None else 0.6 * level + 0.4 * cost
        rise = 0.0 if before is None else max(0.0, level - before)
        want.append(max(0.0, integral + 0.4 * smooth + 2.0 * rise))
    assert multipliers(rule, seen) == pytest.approx(want)
    alone = Constraint(1.0, "pid", rate=0.1, start=0.3)
    assert multipliers(alone, seen) == multipliers(Constraint(1.0, rate=0.1, start=0.3), seen)


def test_the_first_move_may_wait_and_the_price_is_an_average() -> None:
    rule = Constraint(1.0, rate=1.0, start=0.5, delay=2)
    assert multipliers(rule, [2.0, 2.0, 2.0]) == [0.5, 0.5, 1.5]
    state = rule.advance(rule.advance(rule.advance(rule.begin(), 2.0), 2.0), 2.0)
    assert state["price"] == pytest.approx(AVERAGE * 0.5 + (1 - AVERAGE) * 1.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rate": -1.0}, "not negative"),
        ({"start": 5.0, "most": 1.0}, "between 0 and most"),
        ({"multiplier": "log"}, "set start above 0"),
        ({"proportional": 0.1}, 'those of multiplier = "pid"'),
        ({"multiplier": "pid", "smoothing": 1.0}, "below 1"),
        ({"budget": float("nan")}, "finite"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(settings: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Constraint(**{"budget": 1.0, **settings})


def test_a_known_optimum_is_found_and_pid_overshoots_less() -> None:
    """benchmarks/constraints.py says what the problem is; the bounds are those of its exit."""
    price, _ = BENCH["best"]()
    seen = {name: BENCH["trained"](BENCH["RULES"][name], 0, 600) for name in ("lagrange", "pid")}
    for run in seen.values():
        assert abs(run.cost - BENCH["BUDGET"]) <= 0.02 * BENCH["BUDGET"]
        assert abs(run.multiplier - price) <= 0.02 * price
    assert seen["pid"].overshoot <= 0.5 * seen["lagrange"].overshoot


# Costs.


def costly(rewards: list[tuple[float, float]]) -> Batch:
    """A group whose rewards report a risk."""
    return Batch.of([group([Reward(r, costs={"risk": c}) for r, c in rewards])])


def test_every_trajectory_has_costs_of_its_own() -> None:
    of = problem()
    plays = [
        trajectory(of, [segment([4, 5]), segment([6])], 1.0),
        trajectory(of, [segment([7, 8])], 0.5, 1),
        trajectory(of, [segment([9])], invalid(), 2),
    ]
    cut = replace(plays[1], turns=(replace(plays[1].turns[0], stop_reason="length"),))
    batch = Batch.of([Group(of, (plays[0], cut, plays[2]))])
    old, ref = torch.full(batch.tokens.shape, -1.0), torch.full(batch.tokens.shape, -1.5)
    batch = replace(batch, old_logprobs=old, ref_logprobs=ref)
    assert costs.of(batch, "length").tolist() == [3, 3, 2, 0]
    assert costs.of(batch, "turns").tolist() == [2, 2, 1, 0]
    assert costs.of(batch, "truncated").tolist() == [0, 0, 1, 0]
    assert costs.of(batch, "kl").tolist() == [1.5, 1.5, 1.0, 0]
    assert [costs.mean(batch, n) for n in ("length", "turns", "truncated", "kl")] == [
        2.5,
        1.5,
        0.5,
        1.25,
    ]
    with pytest.raises(ValueError, match="needs old_logprobs and ref_logprobs"):
        costs.of(replace(batch, ref_logprobs=None), "kl")


def test_a_cost_that_no_reward_reports_is_one_sentence() -> None:
    around, batch = Constrained({"rsik": Constraint(1.0)}), costly([(1.0, 0.0)])
    with pytest.raises(UserError) as caught:
        around.report(batch)
    assert str(caught.value) == (
        "algorithm.costs.rsik: no reward reports a cost rsik: rewards report risk, and every "
        "trajectory has kl, length, truncated, turns"
    )


def test_who_does_not_report_a_cost_leaves_it() -> None:
    """Two envs, of which one has a risk: its mean is that one's, and the other learns from reward
    alone."""
    risky = group([Reward(r, costs={"risk": c}) for r, c in ((1.0, 0.0), (0.0, 0.4))])
    quiet = group([1.0, Reward(0.0, costs={"speed": 9.0})])
    batch = Batch.of([risky, quiet])
    around = Constrained({"risk": Constraint(0.15, start=1.0, rate=1.0)}, RLOO())
    said = around.report(batch)
    assert said["constraint/risk/cost"] == pytest.approx(0.2)
    assert said["constraint/feasible"] == 0.0
    got, want = around.advantages(batch), RLOO().advantages(batch)
    assert torch.equal(got[2:], want[2:] / 2)
    plain = RLOO().advantages(replace(batch, reward=torch.tensor([0.0, 0.4, 0.0, 0.0])))
    torch.testing.assert_close(got[:2], (want - plain)[:2] / 2)
    # And in the loop's own figures.
    assert rollout_metrics([risky, quiet], 0)["reward/cost/risk"] == pytest.approx(0.2)
    # A member that reports none is compared with nobody.
    kept = Constrained({"risk": Constraint(1.0)}, GRPO(zero_variance="resample"))
    one = Reward(1.0, costs={"risk": 1.0})
    assert not kept.keep(group([one, 1.0]))
    assert kept.keep(group([one, Reward(1.0, costs={"risk": 0.0})]))


@pytest.mark.parametrize("lost", [[invalid(), invalid()], [1.0, 0.0]], ids=["invalid", "other"])
def test_a_step_that_has_no_cost_leaves_its_multiplier(lost: list[Any]) -> None:
    rule = Constraint(0.1, "pid", rate=0.5, start=0.5, proportional=0.5, derivative=1.0)
    around = Constrained({"risk": rule}, Reinforce())
    state = around.advance(
        around.start(), {**around.report(costly([(1.0, 0.3)])), "reward/mean": 1.0}
    )
    said = around.report(replace(Batch.of([group(lost)]), state=state))
    assert not {"constraint/risk/cost", "constraint/risk/excess", "constraint/feasible"} & {*said}
    after = around.advance(state, {**said, "reward/mean": state["baseline"]})
    assert after == state


def test_a_costs_moving_average_is_of_the_cost() -> None:
    """Rewards of 1 and costs of 3, always: then neither has anything to teach."""
    around = Constrained({"risk": Constraint(1.0, start=1.0, rate=0.0)}, Reinforce(decay=0.0))
    state = around.start()
    batch = costly([(1.0, 3.0), (1.0, 3.0)])
    assert around.advantages(batch).abs().max() == 1.0  # (1 - 3) / 2 before the first average
    state = around.advance(state, {**around.report(batch), "reward/mean": 1.0})
    assert (around.advantages(replace(batch, state=state)) == 0).all()
    assert state["baseline"] == 1.0


# Around another algorithm.


@pytest.mark.parametrize("plain", [GRPO(), RLOO(), DrGRPO(), Reinforce(), GiGPO(RLOO())], ids=repr)
def test_advantages_are_the_lagrangians(plain) -> None:
    limit = Constraint(1.0, start=0.5)
    around = Constrained({"risk": limit, "length": replace(limit, start=0.25)}, plain)
    batch = costly([(1.0, 2.0), (0.0, 0.0), (0.5, 1.0), (0.5, 0.0)])
    of_reward = plain.advantages(batch)
    of_risk = plain.advantages(replace(batch, reward=batch.costs["risk"]))
    of_length = plain.advantages(replace(batch, reward=batch.trained.sum(1).float()))
    want = (of_reward - 0.5 * of_risk - 0.25 * of_length) / 1.75
    torch.testing.assert_close(around.advantages(batch), want)
    free = Constrained({"risk": Constraint(1.0)}, plain)
    assert torch.equal(free.advantages(batch), of_reward)


def test_by_hand() -> None:
    """Rewards 1 and 0, risks 2 and 0, multiplier 0.25: (0.5 - 0.25 * 1) / 1.25."""
    around = Constrained({"risk": Constraint(1.0, start=0.25)}, GRPO(scale="none"))
    got = around.advantages(costly([(1.0, 2.0), (0.0, 0.0)]))
    assert got[0].unique().tolist() == pytest.approx([0.0, 0.2])
    assert got[1].unique().tolist() == pytest.approx([-0.2, 0.0])


def test_no_penalty_is_taken_off_a_cost() -> None:
    """Nor is a turn's reward a part of it."""
    shaped = RLOO(kl=KL(0.5, "k1", "reward"), overlong=Overlong(limit=3, cache=2))
    batch = costly([(0.0, 1.0), (0.0, 0.0), (0.0, 0.0)])
    draw = torch.Generator().manual_seed(0)
    old, ref = (torch.rand(batch.tokens.shape, generator=draw) for _ in range(2))
    batch = replace(batch, old_logprobs=old, ref_logprobs=ref)
    around = Constrained({"risk": Constraint(1.0, start=1.0)}, shaped)
    of_risk = RLOO().advantages(replace(batch, reward=batch.costs["risk"]))
    want = (shaped.advantages(batch) - of_risk) / 2
    torch.testing.assert_close(around.advantages(batch), want)


def test_equal_rewards_with_unequal_costs_are_worth_keeping() -> None:
    around = Constrained({"risk": Constraint(1.0)}, GRPO(zero_variance="resample"))
    plain = [Reward(1.0, costs={"risk": c}) for c in (0.0, 0.0)]
    assert not around.keep(group(plain))
    assert around.keep(group([Reward(1.0, costs={"risk": c}) for c in (0.0, 1.0)]))
    assert not around.keep(group([plain[0], Reward(1.0, costs={"risk": 1.0}, valid=False)]))
    assert around.keep(group([1.0, 0.0]))
    lengths = Constrained({"length": Constraint(1.0)}, GRPO(zero_variance="resample"))
    assert lengths.keep(group([1.0, 1.0]))
    assert not lengths.keep(group([1.0, 1.0], [[4], [5]]))
    assert Constrained({"kl": Constraint(1.0)}, GRPO(zero_variance="resample")).keep(
        group([1.0] * 2)
    )


def test_a_group_that_only_its_costs_tell_apart_counts_where_others_are_dropped() -> None:
    inner = GRPO(zero_variance="drop")
    batch = costly([(1.0, 2.0), (1.0, 0.0)])
    for start, counts in ((0.5, True), (0.0, False)):
        around = Constrained({"risk": Constraint(1.0, start=start)}, inner)
        filled = replace(batch, advantages=around.advantages(batch))
        assert bool((around.weights(filled) > 0).any()) == counts


def test_state_and_report_go_with_the_inner_algorithms() -> None:
    around = Constrained({"risk": Constraint(0.5, rate=0.1)}, Reinforce(decay=0.5))
    state = around.start()
    assert state["baseline"] == 0.0
    batch = replace(costly([(1.0, 2.0), (0.0, 0.0)]), state=state)
    said = around.report(batch)
    assert said == {
        "constraint/feasible": 0.0,
        "constraint/risk/cost": 1.0,
        "constraint/risk/excess": 0.5,
        "constraint/risk/multiplier": 0.0,
        "constraint/risk/price": 0.0,
    }
    state = around.advance(state, {**said, "reward/mean": 0.5})
    assert state["baseline"] == 0.25
    assert state["constraint/risk/multiplier"] == pytest.approx(0.05)
    later = around.report(replace(costly([(1.0, 0.5), (0.0, 0.5)]), state=state))
    assert (later["constraint/feasible"], later["constraint/risk/multiplier"]) == (1.0, 0.1 * 0.5)


def test_needs_and_claims_go_with_the_inner_algorithms() -> None:
    around = Constrained({"kl": Constraint(1.0)}, RLOO())
    assert around.needs == {"old_logprobs", "ref_logprobs"}
    assert around.reported == frozenset()
    assert around.claims == {"policy_gradient", "silent_without_advantage"}
    assert Constrained({"a": Constraint(1.0)}, GRPO(kl=KL(0.1))).claims == frozenset()
    batch = replace(costly([(1.0, 0.0), (0.0, 0.0)]), old_logprobs=torch.zeros(2, 6))
    batch = replace(batch, advantages=GRPO().advantages(batch))
    ours, theirs = (
        one.loss(Outputs(torch.zeros(2, 6)), batch)[0]
        for one in (Constrained({"a": Constraint(1.0)}, GRPO()), GRPO())
    )
    assert torch.equal(ours, theirs)


# A recipe's table.


def test_a_recipes_table_makes_it_and_comes_back() -> None:
    table = {
        "of": {"type": "rloo", "kl": {"coefficient": 0.1, "kind": "k2"}},
        "costs": {"length": {"budget": 12, "multiplier": "pid", "proportional": 0.5}},
    }
    made = build(Constrained, table, "algorithm")
    assert made == Constrained(
        {"length": Constraint(12.0, "pid", proportional=0.5)}, RLOO(kl=KL(0.1, "k2"))
    )
    assert build(Constrained, table_of(made), "algorithm") == made


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "algorithm.costs is missing"),
        ({"costs": {}}, "names no cost to hold"),
        ({"costs": {"length": 4}}, "algorithm.costs.length must be a table"),
        ({"costs": {"length": {}}}, "algorithm.costs.length.budget is missing"),
        (
            {"costs": {"length": {"bugdet": 4}}},
            "unknown setting algorithm.costs.length.bugdet: did you mean "
            "algorithm.costs.length.budget?",
        ),
        (
            {"costs": {"a": {"budget": 4}}, "of": {"type": "grpoo"}},
            "unknown algorithm.of grpoo: did you mean grpo?",
        ),
        (
            {"costs": {"a": {"budget": 4}}, "of": {"type": "grpo", "clip_hi": 1}},
            "unknown setting algorithm.of.clip_hi: did you mean algorithm.of.clip_high?",
        ),
        ({"costs": {"a": {"budget": 4}}, "of": "grpo"}, "algorithm.of must be a table with a type"),
        (
            {
                "costs": {"a": {"budget": 4}},
                "of": {"type": "constrained", "costs": {"b": {"budget": 1}}},
            },
            "of is constrained already",
        ),
        (
            {"costs": {"a": {"budget": 4}}, "of": {"type": "distill", "teacher": "t"}},
            "of learns from a teacher, who has a say in whatever it is asked: put distill outerm",
        ),
        *(
            (
                {"costs": {"a": {"budget": 4}}, "of": {"type": kind}},
                "of takes answers of any policy, and what it makes of them is no advantage",
            )
            for kind in ("dpo", "kto", "awr", "raft", "sft")
        ),
    ],
)
def test_tables_that_say_something_else_are_refused(table: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        build(Constrained, table, "algorithm")
    assert said in str(caught.value)


# A run.


LIMITED: Mapping[str, Any] = {
    **DIGITS,
    "name": "limited",
    "env": {"type": BANDIT.replace("Digits", "Risky")},
    "algorithm": {
        "type": "constrained",
        "of": {"type": "grpo"},
        "costs": {"risk": {"budget": 0.05, "multiplier": "pid", "rate": 0.5, "proportional": 1.0}},
    },
}


def test_a_run_holds_its_budget_and_resumes_with_its_multipliers(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", LIMITED, "stop.steps=16", "checkpoint.every=4")
    rows = whole.metrics()
    assert rows[0]["constraint/risk/multiplier"] == 0.0
    assert max(row["constraint/risk/multiplier"] for row in rows) > 0.0
    assert all(
        row["constraint/risk/cost"] == pytest.approx(row["reward/cost/risk"]) for row in rows
    )
    free = trained(tmp_path / "free", LIMITED, "stop.steps=16", "algorithm.costs.risk.budget=1")
    assert rows[-1]["reward/cost/risk"] < 0.5 * free.metrics()[-1]["reward/cost/risk"]
    recipe = read({**LIMITED, "runs": str(tmp_path)}, ["stop.steps=16", "checkpoint.every=4"])
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe, silent, watches=[Interrupt(10)])
    again = resume_recipe(recipe, silent)
    assert untimed(again.metrics()) == untimed(rows)


def fault(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        asyncio.run(prove(Session(read({**LIMITED, "check": {"problems": 1}}, overrides), silent)))
    return str(caught.value)


def test_what_cannot_be_held_is_refused_before_the_first_step(tmp_path: Path) -> None:
    said = fault("algorithm.costs.rsik.budget=1")
    assert said.startswith("self-check: algorithm.costs.rsik: no reward reports a cost rsik")
    assert "group=1 leaves constrained nothing to compare" in fault("rollout.group=1")
    with pytest.raises(UserError, match="no reward reports a cost rsik: rewards report risk"):
        trained(tmp_path, LIMITED, "algorithm.costs.rsik.budget=1", "stop.steps=1")


def test_a_cost_may_be_that_of_the_last_of_several_envs() -> None:
    envs = [{"label": name, "type": BANDIT} for name in ("a", "b")]
    envs.append({"label": "c", "type": LIMITED["env"]["type"]})
    asyncio.run(prove(Session(read({**LIMITED, "env": envs, "check": {"problems": 1}}), silent)))


def views(of: Group, *names: str) -> list[list[float]]:
    limits = {name: Constraint(1.0) for name in names}
    return [[r.total for r in view.rewards] for view in costs.views(of, limits)]


def test_a_groups_views_are_its_costs() -> None:
    of = problem()
    plays: list[Trajectory] = [
        trajectory(of, [segment([4, 5]), segment([6])], Reward(1.0, costs={"risk": 3.0})),
        trajectory(of, [segment([7])], 0.0, 1),
    ]
    seen = views(Group(of, tuple(plays)), "risk", "length", "turns", "truncated")
    assert seen == [[1.0, 0.0], [3.0, 0.0], [3.0, 1.0], [2.0, 1.0], [0.0, 0.0]]
