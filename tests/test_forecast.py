"""Curves and forecasts: intervals that hold the truth, a gate that refuses, words for what is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from records import group
from upslope.evaluate import interval
from upslope.recipe import dump, read
from upslope.runs import Run
from upslope.scaling import forms
from upslope.scaling.curves import Curve, fitted, redrawn, refusal
from upslope.scaling.forecast import compute_of, forecast, past, ranked
from upslope.scaling.forms import Array
from upslope.scaling.series import Series, series_of
from upslope.scaling.worth import Worth
from upslope.types import UserError

TRUE = {"floor": 0.1, "ceiling": 0.8, "midpoint": 1e15, "exponent": 1.8}
# ScaleRL, arXiv:2510.13786, table 1: midpoint in GPU-hours, exponent, ceiling, and what was run.
TABLE = {
    "ScaleRL": (2542, 1.92, 0.610, 16e3),
    "8 answers": (2542, 2.44, 0.585, 16e3),
    "24 answers": (3054, 2.22, 0.590, 16e3),
    "32 answers": (2936, 2.07, 0.595, 16e3),
    "Scout": (4242, 1.65, 0.710, 45e3),
    "batch 512": (2818, 1.77, 0.605, 16e3),
    "math of both": (2896, 2.05, 0.595, 16e3),
    "code of both": (1675, 1.09, 0.615, 16e3),
    "32k tokens": (11272, 1.89, 0.645, 50e3),
    "batch 2048": (10909, 1.70, 0.645, 50e3),
}


def series(
    true: dict[str, float], most: float, noise: float, seed: int, points: int = 41
) -> Series:
    """A run's points up to ``most`` FLOPs, with independent errors."""
    x = np.linspace(0, most, points)
    y = forms.sigmoid(x, **true) + np.random.default_rng(seed).normal(0, noise, points)
    return Series("run", "sampled", x, y, np.full(points, noise))


def study(random: np.random.Generator) -> list[Series]:
    """Three seeds whose own curves differ, each seen with noise to four midpoints."""
    runs = []
    for _ in range(3):
        own = TRUE | {
            "ceiling": random.normal(0.8, 0.01),
            "midpoint": 1e15 * np.exp(random.normal(0, 0.05)),
            "exponent": 1.8 * np.exp(random.normal(0, 0.05)),
        }
        runs.append(series(own, 4e15, 0.01, int(random.integers(1 << 30))))
    return runs


def holds(curve: Curve, reached: float) -> dict[str, bool]:
    """Which of the truth's numbers lie in their intervals."""
    told = {name: (curve.parameter(name), value) for name, value in TRUE.items()}
    for times in (8e15, 4e16):
        told[f"at {times}"] = (curve.at(times), float(forms.sigmoid(times, **TRUE)))
    found = curve.reach(0.7)
    assert found
    told["reach"] = (found, reached)
    return {name: seen.low <= value <= seen.high for name, (seen, value) in told.items()}


def test_intervals_over_three_seeds_hold_the_truth_nine_times_in_ten() -> None:
    random = np.random.default_rng(1)
    reached = 1e15 * (0.6 / 0.1) ** (1 / 1.8)
    curves = [fitted(study(random)) for _ in range(200)]
    told = [holds(curve, reached) for curve in curves if not refusal(curve)]
    assert len(told) >= 195
    for name in told[0]:
        assert 0.85 <= np.mean([seen[name] for seen in told]) <= 0.95, name


def test_table_one_is_forecast_from_its_first_half_or_refused() -> None:
    for place, (name, (midpoint, exponent, ceiling, most)) in enumerate(TABLE.items()):
        true = {"floor": 0.25, "ceiling": ceiling, "midpoint": midpoint, "exponent": exponent}
        half = series(true, most / 2, 0.02, place)
        curve = fitted([half], draws=200)
        refused = refusal(curve)
        if most / 2 < 2.5 * midpoint:
            assert re.search("run to at least", refused), name
        if not refused:
            assert abs(curve.at(most).value - forms.sigmoid(most, **true)) <= 0.02, name


def test_problems_are_drawn_again_with_all_their_points() -> None:
    random = np.random.default_rng(0)
    hard = random.random(400)[:, None]
    outcomes = (hard < forms.sigmoid(np.linspace(0, 4e15, 20), **TRUE)).astype(float)
    outcomes[7, 3] = np.nan
    mean = np.nanmean(outcomes, 0)
    one = Series("run", "sampled", np.linspace(0, 4e15, 20), mean, np.full(20, 0.02), outcomes)
    draws = redrawn(one, 4000)
    assert draws.mean(0) == pytest.approx(mean, abs=0.003)
    # the binomial's own error, and errors of one run go together: these problems are nested
    assert draws.std(0) == pytest.approx(np.sqrt(mean * (1 - mean) / 400), rel=0.1)
    assert np.corrcoef(draws[:, 10], draws[:, 11])[0, 1] > 0.8


@pytest.mark.parametrize(
    ("shape", "most", "says"),
    [
        (lambda x: forms.sigmoid(x, **TRUE), 1.5e15, "ceiling not identified: run to at least"),
        (lambda x: 0.3 + 0 * x, 4e15, "is flat"),
        (lambda x: 0.5 - 0.3 * x / 4e15, 4e15, "falls"),
        (lambda x: 0.1 + 0.2 * x / 4e15, 4e15, "run to at least"),
    ],
)
def test_the_gate(shape: Callable[[Array], Array], most: float, says: str) -> None:
    x = np.linspace(0, most, 41)
    y = shape(x) + np.random.default_rng(0).normal(0, 0.01, 41)
    assert says in refusal(fitted([Series("run", "sampled", x, y, np.full(41, 0.01))]))


def test_a_target_above_the_curve_is_never_reached() -> None:
    curve = fitted([series(TRUE, 4e15, 0.005, 0)])
    assert curve.reach(0.9) is None
    assert curve.reach(0.45).value == pytest.approx(1e15, rel=0.05)  # type: ignore[union-attr]


def test_forms_are_ranked_by_what_they_foretold() -> None:
    found = ranked([series(TRUE, 8e15, 0.005, 0, 60)])
    assert found[0].law == "sigmoid"
    assert found[0].error < 0.02
    assert {p.law for p in found} == {"sigmoid", "exponential", "power", "log_linear"}
    assert found[0].spoke
    assert past([series(TRUE, 8e15, 0.005, 0, 6)], "sigmoid") is None


def written(
    folder: Path, name: str, seed: int, points: int = 13, ceiling: float = 0.8, **changes: Any
) -> Run:
    """A run's files, as if it had been trained: two stages, answers to 200 problems."""
    stages = [
        {"name": "sft", "algorithm": {"type": "sft"}, "source": {"type": "recorded"}},
        {"name": "rl"},
    ]
    recipe = {"model": "ladder:0.1m", "env": {"type": "arithmetic"}, "algorithm": {"type": "grpo"}}
    recipe |= {"evaluation": {"every": 10}, "stage": stages, "seed": seed, **changes}
    random = np.random.default_rng(seed)
    hard = random.random(200)
    with Run.create(folder, name, dump(read(recipe)), seed) as run:
        run.log(1, "sft", {"ledger/training_flops": 5e14})
        for place, compute in enumerate(np.linspace(0, 6e15, points)):
            true = TRUE | {"ceiling": ceiling}
            step, right = 10 * place + 1, hard < forms.sigmoid(compute, **true)
            mean, low, high = interval(right.astype(float))
            kinds = {"sampled": "", "greedy": "/greedy"}
            told = {
                f"evaluation/{k}/{n}": v
                for k in kinds
                for n, v in (("mean", mean), ("low", low), ("high", high), ("problems", 200))
            }
            spent = {"ledger/training_flops": compute + 5e14, "ledger/seconds": 9.0}
            run.log_evaluation(step, "rl", told | spent | {"ledger/cpu_seconds": 8.0})
            base = {
                "step": step,
                "stage": "rl/evaluation",
                "visit": 0,
                "member": 0,
                "text": "",
                "reason": "",
            }
            base |= {
                "messages": [],
                "costs": {},
                "stop": "stop",
                "tokens": 1,
                "version": 0,
                "valid": True,
            }
            run.log_trajectories(
                [
                    base
                    | {
                        "id": f"{step}/{p}{end}",
                        "problem": str(p),
                        "reward": float(r),
                        "parts": {"correct": float(r)},
                    }
                    for p, r in enumerate(right)
                    for end in kinds.values()
                ]
            )
            run.log(
                step + 1,
                "rl",
                {
                    "ledger/training_flops": compute + 6e14,
                    "reward/mean": mean,
                    "reward/std": 0.4,
                    "groups/used": 16,
                },
            )
    return run


def test_a_run_is_read_and_forecast_in_words(tmp_path: Path) -> None:
    run = written(tmp_path, "run", 1)
    one = series_of(run)
    assert one.compute[[0, -1]] == pytest.approx([0, 6e15])
    assert one.outcomes is not None
    assert one.outcomes.mean(0) == pytest.approx(one.mean)
    lines = forecast([str(run.path)], at="2x", target=0.6)
    assert "13 points of sampled accuracy, up to 6.00e+15 training FLOPs" in lines[0]
    assert "over held-out problems, of one seed" in lines[0]
    ceiling = re.search(r"ceiling ([\d.]+) \(([\d.]+) to ([\d.]+)\)", lines[1])
    assert ceiling
    assert float(ceiling[2]) < 0.8 < float(ceiling[3])
    assert lines[2].startswith("  at 1.20e+16 FLOPs (2x): 0.")
    assert re.match(r"  0\.6 needs \d\.\d\de\+15 FLOPs", lines[3])
    assert "its past: fitted to the first half" in lines[4]
    batches = forecast([str(run.path)], metric="reward")
    assert "points of training reward" in batches[0]
    assert "over batches" in batches[0]


def test_seeds_share_a_curve_and_others_do_not(tmp_path: Path) -> None:
    runs = [str(written(tmp_path, f"run-{seed}", seed).path) for seed in range(3)]
    lines = forecast(runs)
    assert "and 2 of other seeds" in lines[0]
    assert "over seeds" in lines[0]
    other = written(tmp_path, "other", 3, rollout={"group": 4})
    with pytest.raises(UserError, match=r"run-0 and .*other differ in rollout\.group"):
        forecast([runs[0], str(other.path)])
    with pytest.raises(UserError, match="named twice"):
        forecast([runs[0], runs[0]])


def test_what_cannot_be_forecast_is_said_plainly(tmp_path: Path) -> None:
    few = written(tmp_path, "few", 0, points=4)
    with pytest.raises(UserError, match="few has 4 points of sampled, and a curve needs 6"):
        forecast([str(few.path)])
    with pytest.raises(UserError, match="there is no run in"):
        forecast([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match="--metric is one of"):
        forecast([str(few.path)], metric="loss")
    with pytest.raises(UserError, match="--form is one of"):
        forecast([str(few.path)], law="cubic")
    for text in ("tenfold", "0x", "1e", "-3x"):
        with pytest.raises(UserError, match="--at is a multiple"):
            compute_of(text, 1.0)
    assert (compute_of("10x", 2.0), compute_of("3e15", 2.0), compute_of(None, 2.0)) == (
        20.0,
        3e15,
        20.0,
    )
    (few.path / "evaluations.jsonl").write_text('{"step": 1, "sta\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        forecast([str(few.path)])
    empty = Run.create(tmp_path, "empty", (few.path / "recipe.toml").read_text(), 0)
    with pytest.raises(UserError, match="has no evaluations yet"):
        forecast([str(empty.path)])


@pytest.mark.parametrize(("gain", "stops"), [(0.0, False), (0.02, False), (0.15, True)])
def test_a_run_asks_whether_it_is_worth_going_on(tmp_path: Path, gain: float, stops: bool) -> None:
    # at 6 midpoints the curve has 0.026 left, of which doubling brings 0.018
    run = written(tmp_path, "run", 2, stop={"steps": 500, "gain": gain})
    stages, said = read(run.path / "recipe.toml").stages(), list[str]()
    watch = Worth(run, stages, said.append)
    assert watch.see("rl", 121, (), {}) == ()
    found = re.match(
        r"  worth going on\? as much compute again would bring \+([\d.]+) points", said[0]
    )
    assert found
    assert 0.5 < float(found[1]) < 4
    assert watch.see("rl", 122, [group([1.0])], {}) == (("stop",) if stops else ())
    assert ("below stop.gain" in said[-1]) == stops
    assert watch.see("rl", 123, [group([1.0])], {}) == ()


def test_early_on_nothing_is_foretold(tmp_path: Path) -> None:
    run = written(tmp_path, "run", 2, points=5)
    said = list[str]()
    assert (
        Worth(run, read(run.path / "recipe.toml").stages(), said.append).see("rl", 41, (), {}) == ()
    )
    assert said == []
