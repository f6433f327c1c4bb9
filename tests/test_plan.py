"""What a recipe will take: sizes by hand, tried steps, accelerators by makers' figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from upslope.accelerators import ACCELERATORS, Accelerator, Load
from upslope.models.policy import checksum
from upslope.pace import SECONDS, STEPS, WARM, Alternating, Clock, Pace, _pace, _small, paces
from upslope.plan import _spent, _time, lines
from upslope.recipe import read
from upslope.runs import Run
from upslope.session import Session
from upslope.sizes import Sizes, sizes
from upslope.types import UserError

STAGES: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic", "digits": 1},
    "rollout": {"problems": 4, "group": 4, "max_tokens": 9, "rows": 16},
    "evaluation": {"problems": 20},
    "machine": {"threads": 1, "price_per_hour": 2.0},
    "stop": {"steps": 10},
    "stage": [
        {"name": "sft", "algorithm": {"type": "sft"}, "source": {"type": "recorded"}},
        {"name": "rl", "algorithm": {"type": "grpo"}},
    ],
}


@pytest.fixture(scope="module")
def made() -> Session:
    return Session(read(STAGES), lambda line: None)


@pytest.fixture(scope="module")
def tried() -> list[Pace]:
    return paces(Session(read(STAGES), lambda line: None), [1.0, 1.0], 1.0)


def size_of(**changes: float) -> Sizes:
    of = dict.fromkeys(("prefill", "decode", "update", "reference", "evaluation", "imitated"), 0.0)
    counts = {"problems": 2, "trajectories": 8, "reply": 10, "evaluations": 2, "steps": 5}
    return Sizes(**{"name": "rl", "prompt": 6.0, "tokens": 80.0} | of | counts | changes)  # type: ignore[arg-type]


def test_a_stage_takes_its_steps_and_its_evaluations() -> None:
    s = size_of(prefill=1.0, decode=2.0, update=3.0, reference=4.0, evaluation=100.0)
    assert (s.step, s.total) == (10.0, 250.0)
    assert s.all(7.0, 0.5) == 36.0
    assert replace(s, steps=0).total == 210.0  # without a bound: one step's


def test_an_sft_stage_costs_what_imitation_of_its_replies_costs(made: Session) -> None:
    sft, rl = (sizes(made, one) for one in made.stages)
    assert sft.imitated == pytest.approx(sft.update, rel=0.05)
    # The group's prompt is computed once in the update, so that this is less than SFT on each.
    assert rl.update < rl.imitated < 4 * rl.update


def test_a_bound_in_flops_is_one_in_steps() -> None:
    def stage(*changes: str) -> Sizes:
        session = Session(read(STAGES, changes), lambda line: None)
        return sizes(session, session.stages[1])

    step = stage().step
    by_flops = stage(f"stop.flops={3.5 * step}", "stop.steps=0", "evaluation.every=2")
    assert (by_flops.steps, by_flops.evaluations) == (4, 3)
    assert stage(f"stop.flops={3.5 * step}").steps == 4  # the first bound ends it
    assert stage(f"stop.flops={35 * step}").steps == 10


def test_a_later_stage_is_tried_as_long_as_what_was_demonstrated(made: Session) -> None:
    sft, rl = made.stages
    small = _small(made, rl, [sft], parts=2)
    rollout = small.stage.rollout
    # "7" and its end, or "12" and its end; the recipe would allow 9 tokens.
    assert (rollout.problems, rollout.max_tokens) in {(2, 2), (2, 3)}
    assert small.stage.stop.steps == WARM + STEPS
    assert isinstance(small.reward, Alternating)
    assert small.env is rl.env
    assert _small(made, rl, [], parts=1).reward is rl.reward
    assert _small(made, rl, [], parts=1).stage.rollout.max_tokens == 9


def test_problems_stay_a_multiple_of_the_updates() -> None:
    recipe = read(STAGES, ["learner.updates=2", "rollout.problems=10"])
    session = Session(recipe, lambda line: None)
    problems = [
        _small(session, session.stages[1], [], parts).stage.rollout.problems for parts in (1, 2, 99)
    ]
    assert problems == [10, 4, 2]


def test_trying_a_stage_finds_all_its_phases(tried: list[Pace]) -> None:
    sft, rl = tried
    assert sft.seconds["updating"] > 0
    assert rl.seconds["sampling"] > 0
    assert rl.seconds["weights"] > 0
    assert rl.step == pytest.approx(sum(rl.seconds.values()))
    assert rl.evaluation > 0
    # A policy that knows nothing, and yet three groups in four differ; replies as long as shown.
    assert rl.live == 0.75
    assert 1 <= rl.reply <= 3
    assert rl.flops["update"] > 0
    assert rl.flops["decode"] > 0


def test_a_step_tried_with_fewer_problems_is_scaled_to_all() -> None:
    session = Session(read(STAGES), lambda line: None)
    # Twice what a step may take at the machine's peak: half of the problems are tried.
    pace = paces(session, [1.0, 2 * SECONDS], 1.0)[1]
    assert pace.problems == 2
    assert pace.flops["decode"] == pytest.approx(
        paces(Session(read(STAGES), lambda line: None), [1.0, 1.0], 1.0)[1].flops["decode"], rel=0.3
    )


def test_the_pace_is_of_warm_steps_by_the_clock_and_the_ledger(
    made: Session, tmp_path: Path
) -> None:
    with Run.create(tmp_path, "x", "", 0) as run:
        for step, seconds in ((0, 1.0), (3, 4.0)):
            run.log_evaluation(step, "rl", {"ledger/seconds/evaluation": seconds})
    clock = Clock()
    steps = (  # a cold one, one of 3 s, one of 5 s, and one that the machine held up, of 40 s
        (100.0, 50.0, 40.0),
        (103.0, 51.0, 41.5),
        (108.0, 54.0, 43.0),
        (148.0, 66.0, 69.0),
    )
    for end, decode, update in steps:
        metrics = {"ledger/seconds/decode": decode, "ledger/seconds/update": update}
        metrics |= {"ledger/flops/decode": 1e9 * decode, "length/mean": 5.0}
        clock.seen.append((end, metrics | {"update/live_share": 0.5}))
    pace = _pace(made.stages[1], clock, run)
    assert pace.seconds == {
        "sampling": 3.0,
        "updating": 1.5,
        "weights": 0.0,
        "grading": 0.0,
        "rest": 0.5,
    }
    assert (pace.step, pace.evaluation, pace.reply, pace.live) == (5.0, 3.0, 5.0, 0.5)
    assert pace.flops["decode"] == pytest.approx(16e9 / 3)  # what is counted is the mean


def test_what_would_be_spent_is_said_for_here_and_for_an_accelerator() -> None:
    said = "\n".join(lines(Session(read(STAGES), lambda line: None), "h100"))
    assert said.count("a step here takes about") == 2
    assert said.count("on h100, at 40% of its FLOP/s and 60% of its bandwidth (assumed") == 2
    assert "times the FLOPs of an SFT example" in said
    assert "in money" in said
    assert "in all about" in said


def test_a_plan_without_trying_changes_nothing(made: Session) -> None:
    before = checksum(made.policy.tensors())
    said = "\n".join(lines(made, trying=False))
    assert "a step here" not in said
    assert "in all at most" in said
    assert checksum(made.policy.tensors()) == before


def test_an_unknown_accelerator_is_refused(made: Session) -> None:
    with pytest.raises(UserError, match=r"no accelerator 'h1000' is known: name one of t4, l4"):
        lines(made, "h1000")


def test_an_accelerators_step_by_hand() -> None:
    there = Accelerator(flops=1e3, bandwidth=1e2, memory=1e6)
    load = Load(parameters=60, trained=60, stored=3.0, rows=4)
    s = size_of(prefill=800.0, decode=400.0, update=40000.0, reference=400.0)
    # Decoding 8 replies in 2 waves of 10 tokens: each reads 120 bytes of weights, and what a
    # reply has behind it: 6 + 10 / 2 tokens of 3 bytes. 0.6 of the bandwidth is 60 bytes/s.
    moved = 10 * (2 * 120 + 8 * 11 * 3.0)
    seconds = load.seconds(s, there)
    assert seconds == {
        "prefill": 2.0,  # 120 bytes take as long as 800 FLOPs at 40% of 1,000
        "decode": moved / 60,
        "update": 100.0,
        "reference": 2.0,  # the weights have to be read, which takes longer than computing
    }
    assert load.memory(s) == 3 * 120 + 14 * 60 + 4 * 16 * 3.0


def test_the_makers_figures_are_in_a_plausible_order() -> None:
    for name, one in ACCELERATORS.items():
        assert 50 < one.flops / one.bandwidth < 450, name  # FLOPs a byte: memory is never free
    assert ACCELERATORS["h200"].flops == ACCELERATORS["h100"].flops


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0123, "12.3 ms"),
        (2.0, "2.0 s"),
        (300, "5.0 minutes"),
        (9000, "2.5 hours"),
        (2e6, "23.1 days"),
    ],
)
def test_times_are_said_in_their_unit(seconds: float, said: str) -> None:
    assert _time(seconds) == said
    assert _spent(seconds, 0.0) == said


def test_money_is_said_where_an_hour_has_a_price() -> None:
    assert _spent(5400.0, 2.0) == "1.5 hours and 3.00 in money"
