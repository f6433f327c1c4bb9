"""Splitting a budget: what is chosen where the truth is known, how surely, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from upslope.cli import app
from upslope.recipe import read
from upslope.scaling import forms
from upslope.scaling.allocate import told
from upslope.scaling.backtest import tried
from upslope.scaling.budget import Option, allocate, draws, options
from upslope.scaling.curves import Curve, fitted, over_seeds, refusal
from upslope.scaling.forms import Array
from upslope.scaling.laws import beta_by_moments
from upslope.scaling.report import by_arms
from upslope.scaling.results import FILE, LATER, NUMBERS, read_results
from upslope.scaling.series import Series
from upslope.scaling.sizes import along, at_size, between, misfit
from upslope.scaling.study import Study
from upslope.types import UserError

SIZES = {"a": 1e5, "b": 3e5, "c": 9e5}
GROUPS = {"four": 4, "sixteen": 16}
PLAN = """
about = "Size and group."
recipe = "base.toml"
seeds = [0, 1, 2]
budget = {amount = 1e12}
settings = ["stage.rl.learner.lr=1e-4"]

[arms.size]
a = ["model=ladder:0.1m"]
b = ["model=ladder:0.3m"]
c = ["model=ladder:0.6m"]

[arms.group]
four = ["stage.rl.rollout.group=4"]
sixteen = ["stage.rl.rollout.group=16"]
"""
BASE = """
model = "ladder:0.1m"
env = {type = "arithmetic"}

[[stage]]
name = "sft"
algorithm = {type = "sft"}
source = {type = "recorded"}

[[stage]]
name = "rl"
algorithm = {type = "grpo"}
"""


class World:
    """Curves by law: of size, and of group, whose truth is known at any split."""

    def __init__(self, seed: int, samples: int = 1, noise: float = 0.01) -> None:
        random = np.random.default_rng(seed)
        self.random, self.samples, self.noise = random, samples, noise
        self.odds, self.lean = random.uniform(0.3, 1.5), random.uniform(0.1, 0.9)
        self.middle, self.grow = 10 ** random.uniform(10.5, 11.5), random.uniform(0.2, 1.2)
        self.sharp = random.uniform(1.0, 2.5)
        self.by_group = {
            name: (random.uniform(-0.05, 0.05), random.uniform(0.6, 1.6)) for name in GROUPS
        }
        self.sft = random.uniform(0, 30) * 1e4  # FLOPs for each parameter
        self.spread = random.uniform(0.5, 4)

    def true(self, size: float, group: str, compute: Array | float, samples: int = 1) -> Array:
        """Accuracy at so much compute of the last stage."""
        more, slower = self.by_group[group]
        odds = self.odds * (size / 1e5) ** self.lean
        ceiling = np.clip(odds / (1 + odds) + more, 0.05, 0.98)
        middle = self.middle * slower * (size / 1e5) ** self.grow
        once = forms.sigmoid(compute, 0.04, ceiling, middle, self.sharp)
        return forms.pass_at(samples, once * self.spread, (1 - once) * self.spread)

    def write(self, folder: Path, times: float = 5.0, points: int = 14, end: float = 0.0) -> Study:
        """A study's folder; runs go to so many of their midpoints, or to ``end`` FLOPs."""
        folder.mkdir(exist_ok=True)
        (folder / "study.toml").write_text(PLAN)
        (folder / "base.toml").write_text(BASE)
        study = Study.read(folder)
        head = ["run", *study.axes, "seed", "parameters", "active_parameters", *NUMBERS, *LATER]
        with (folder / FILE).open("w", newline="") as file:
            table = csv.DictWriter(file, head, lineterminator="\n")
            table.writeheader()
            for cell in study.cells():
                size, group = SIZES[cell.arms["size"]], cell.arms["group"]
                middle = self.middle * self.by_group[group][1] * (size / 1e5) ** self.grow
                own = {"run": cell.name, **cell.arms, "seed": cell.seed, "parameters": size}
                for step, compute in enumerate(np.linspace(0, end or times * middle, points)):
                    point = self.point(size, group, compute)
                    table.writerow(own | {"step": 10 * step, "active_parameters": size} | point)
        return study

    def point(self, size: float, group: str, compute: float) -> Mapping[str, float]:
        """An evaluation."""
        seen = float(self.true(size, group, compute)) + self.random.normal(0, self.noise)
        best = float(self.true(size, group, compute, self.samples))
        best = min(best + self.random.normal(0, self.noise), 1.0)
        seen = min(max(seen, 0.0), 1.0)
        low, high = seen - 1.96 * self.noise, seen + 1.96 * self.noise
        told = dict(zip(("mean", "low", "high"), (seen, low, high), strict=True))
        row = {f"{kind}_{name}": v for kind in ("sampled", "greedy") for name, v in told.items()}
        row |= {"flops": compute + self.sft * size, "stage_flops": compute, "tokens": 0.0}
        row |= {"seconds": 1.0, "cpu_seconds": 1.0, "samples": self.samples}
        return row | {"pass_at_k": max(best, seen), "answer_flops": 20 * size}

    def regret(self, found: Sequence[Option], flops: float, answers: float = 0.0) -> float:
        """How far the chosen split's true accuracy is below that of the best there is to choose."""
        splits = allocate(found, flops, answers)
        values = []
        for split in splits:
            one = split.option
            left = flops - one.before - split.inference
            compute = split.compute if split is splits[0] else min(left, 10 * one.curve.end)
            group = dict(one.arms)["group"]
            values.append(float(self.true(one.parameters, group, compute, one.samples)))
        return 1 - values[0] / max(values)


def flops(world: World, random: np.random.Generator) -> float:
    """From less than one run's to several times the largest's."""
    most = 5 * world.middle * 9**world.grow
    return float(np.exp(random.uniform(np.log(most / 5), np.log(4 * most))) + 9e5 * world.sft)


@pytest.mark.parametrize(
    ("worlds", "samples"),
    [(6, 1), (2, 4), pytest.param(60, 1, marks=pytest.mark.slow)],
)
def test_the_choice_is_nearly_the_best_where_the_truth_is_known(
    worlds: int, samples: int, tmp_path: Path
) -> None:
    random, regrets = np.random.default_rng(0), []
    for seed in range(worlds):
        world = World(seed, samples)
        study = world.write(tmp_path / "s")
        found = options(by_arms(read_results(study)), "size", vote=False)
        for _ in range(3):
            whole = flops(world, random)
            answers = whole / (20 * 9e5) * random.uniform(0, 0.3) if samples > 1 else 0.0
            regrets.append(world.regret(found, whole, answers))
    assert np.mean(regrets) < 0.02
    assert np.max(regrets) < 0.1


def test_a_trained_size_is_preferred_where_that_costs_next_to_nothing() -> None:
    x = np.linspace(0, 5, 12)

    def option(trained: bool, ceiling: float, apart: float) -> Option:
        own = [ceiling - apart, ceiling, ceiling + apart] if trained else [ceiling] * 3
        ys = [forms.sigmoid(x, 0.1, top, 1.0, 2.0) for top in own]
        curve = fitted([Series("run", "sampled", x, y, np.full(12, 0.01)) for y in ys])
        return Option((("size", "a"),), 1e5, 1, curve, 0.0, 0.1, 1.0, "", trained)

    def chosen(*found: Option) -> Option:
        return allocate(found, 5.0, 0.0)[0].option

    new = option(False, 0.6, 0.0)
    near, noisy, behind = option(True, 0.595, 0.01), option(True, 0.5, 0.1), option(True, 0.5, 0.0)
    assert chosen(new, near) is near
    assert chosen(new, noisy) is new  # within its wide interval, but what it is likely to cost
    assert chosen(new, behind) is new


def test_draws_have_the_intervals_of_curves_and_keep_seeds_together() -> None:
    values = np.array([[0.5, 0.6, 0.7], [0.52, 0.62, 0.72], [0.6, 0.6, 0.6]])
    drawn = draws(values, by_seed=True)
    low, high = np.quantile(drawn[:, 0], (0.05, 0.95))
    seen = over_seeds(values[0])
    assert (low, high) == pytest.approx((seen.low, seen.high), abs=0.02)
    assert np.allclose(drawn[:, 1] - drawn[:, 0], 0.02)
    assert np.allclose(drawn[:, 2], 0.6)
    one = np.arange(12.0).reshape(2, 6)
    assert draws(one, by_seed=False).T.tolist() == one[:, 1:].tolist()


def test_the_spread_of_problems_is_found_from_two_points() -> None:
    a, b = np.array([0.3, 1.0, 4.0]), np.array([2.0, 1.0, 0.5])
    found = beta_by_moments(a / (a + b), 8, forms.pass_at(8, a, b))
    assert np.stack(found) == pytest.approx(np.stack([a, b]), rel=1e-6)
    for best in (0.1, 1.0):  # what no spread gives: all problems alike, or none
        assert np.isfinite(beta_by_moments(np.array([0.0, 0.3, 1.0]), 4, np.full(3, best))).all()
    same = forms.pass_at(4, *beta_by_moments(np.array([0.3]), 4, np.array([0.1])))
    assert same == pytest.approx([0.3], abs=1e-4)


def test_the_law_over_sizes_finds_power_laws_and_says_how_far_it_is_off() -> None:
    sizes = [1e5, 3e5, 9e5]
    x = np.linspace(0, 5, 12)

    def curve(size: float, ceiling: float) -> Curve:
        y = forms.sigmoid(x, 0.05, ceiling, (size / 1e5) ** 0.3, 1.5)
        error = np.full(12, 0.01)
        return fitted([Series("run", "sampled", x, y, error) for _ in range(2)])

    odds = [0.5 * (size / 1e5) ** 0.5 for size in sizes]
    curves = [curve(size, o / (1 + o)) for size, o in zip(sizes, odds, strict=True)]
    assert misfit(curves, sizes) < 1e-3
    new = at_size(curves, sizes, 1.8e6)
    assert new.parameter("ceiling").value == pytest.approx(0.5 * 18**0.5 / (1 + 0.5 * 18**0.5))
    assert new.parameter("midpoint").value == pytest.approx(18**0.3)
    bent = [*curves[:2], curve(9e5, 0.35)]
    assert misfit(bent, sizes) > 0.05
    assert along(1.8e6, sizes, [2.0, 6.0, 18.0]) == pytest.approx(36)
    assert along(2e5, sizes, [0.0, 0.0, 0.0]) == 0
    assert np.isnan(along(2e5, sizes, [np.nan] * 3))
    assert min(between(sizes)) == pytest.approx(5e4)
    assert max(between(sizes)) == pytest.approx(1.8e6)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Study]:
    """A study with four samples of each answer."""
    world = World(1, samples=4)
    return world, world.write(tmp_path_factory.mktemp("known") / "s")


def test_the_command_says_what_was_chosen_and_how_surely(
    known: tuple[World, Study], tmp_path: Path
) -> None:
    world, study = known
    most = 5 * world.middle * 9**world.grow
    whole = ["allocate", str(study.folder), "--flops", f"{2 * most:.4g}", "--answers", "20000"]
    said = CliRunner().invoke(app, [*whole, "--out", str(tmp_path / "o.json")])
    assert said.exception is None, said.exception
    assert "varied: model size, RL FLOPs, rollouts per problem, samples at inference" in said.output
    assert "not varied, so not split: SFT tokens, batch" in said.output
    rows = json.loads((tmp_path / "o.json").read_text())
    first = rows[0]
    spent = first["before_flops"] + first["rl_flops"] + first["inference_flops"]
    assert spent <= 2 * most * 1.001
    assert first["low"] < first["score"] < first["high"]
    assert sum(row["best"] for row in rows) == pytest.approx(1)
    assert {row["samples"] for row in rows} == {1, 2, 4, 8, 16}
    assert all(row["behind_low"] <= 0 for row in rows if not row["told_apart"])
    command = next(line for line in said.output.splitlines() if "upslope train " in line)
    recipe, *changes = shlex.split(command.partition("upslope train ")[2])
    stage = read(recipe, changes).stages()[-1]
    assert stage.stop.steps > 1
    assert stage.learner.lr == 1e-4
    again = CliRunner().invoke(app, [*whole, "--out", str(tmp_path / "o.csv")])
    assert again.output == said.output
    with (tmp_path / "o.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["score"] for row in table] == [str(row["score"]) for row in rows]


def test_without_answers_one_sample_is_all_and_a_vote_needs_the_tables_own(
    known: tuple[World, Study],
) -> None:
    groups = by_arms(read_results(known[1]))
    found = options(groups, "size", vote=True)
    assert {one.samples for one in found} == {1}  # the table has no majority_at_k
    every = options(groups, "", vote=False)
    assert {one.samples for one in every} == {1, 2, 4, 8, 16}
    assert {split.option.samples for split in allocate(every, 1e12, 0)} == {1}


def test_a_vote_is_taken_at_one_and_at_all_samples(known: tuple[World, Study]) -> None:
    lines = read_results(known[1])
    for line in lines:
        line.columns["majority_at_k"] = line.columns["sampled_mean"] * 1.1
    groups = by_arms(lines)
    one, all_ = options({arms: groups[arms] for arms in [*groups][:1]}, "", vote=True)
    assert (one.samples, all_.samples) == (1, 4)
    more = all_.curve.at(all_.curve.end).value / one.curve.at(one.curve.end).value
    assert more == pytest.approx(1.1, abs=0.01)


def test_a_curve_that_falls_gets_no_rl() -> None:
    x, random = np.linspace(0, 5, 12), np.random.default_rng(0)
    noise = [random.normal(0, 0.005, 12) for _ in range(6)]
    error = np.full(12, 0.005)

    def option(name: str, ceiling: float, own: Sequence[Array]) -> Option:
        y = forms.sigmoid(x, 0.4, ceiling, 1.0, 2.0)
        curve = fitted([Series("run", "sampled", x, y + one, error) for one in own])
        return Option((("arm", name),), 1e5, 1, curve, 1.0, 0.1, 1.0, refusal(curve))

    up, down = option("up", 0.6, noise[:3]), option("down", 0.2, noise[3:])
    first, second = allocate([down, up], 4.0, 0.0)
    assert (first.option, first.compute) == (up, 3.0)
    assert (second.option, second.compute) == (down, 0.0)
    assert second.score.value == pytest.approx(0.4, abs=0.02)
    assert first.best == pytest.approx(1, abs=0.02)


def test_a_ceiling_that_is_not_known_is_used_as_far_as_it_was_measured(tmp_path: Path) -> None:
    world = World(2)
    study = world.write(tmp_path / "s", times=2)
    most = 2 * world.middle * 9**world.grow
    said = told(str(study.folder), f"{4 * most:.3g}")
    assert sum("ceiling not identified: run to at least" in line for line in said) == 6
    assert any("FLOPs are left over: the curve is not asked beyond" in line for line in said)
    assert not any("extrapolates" in line for line in said)
    found = options(by_arms(read_results(study)), "size", vote=False)
    assert all(one.trained for one in found)  # no law over sizes whose ceilings are not known
    for split in allocate(found, 4 * most, 0):
        assert split.compute <= split.option.curve.end
    further = told(str(study.folder), f"{4 * most:.3g}", reach=1.5)
    assert any("1.5 times as long as was measured, of a curve whose" in line for line in further)
    with pytest.raises(UserError, match="--reach is from 1 to 10 times what was"):
        told(str(study.folder), "1e12", reach=0.5)


def test_half_of_a_grid_chooses_what_is_nearly_the_best_of_the_whole(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        world = World(seed)
        world.sft = 1e3
        study = world.write(tmp_path / "s", points=20, end=8 * world.middle)
        trial = tried(study, reach=2)
        assert trial.reached > trial.best - 0.03
        assert trial.unseen == ()
    few = world.write(tmp_path / "s", points=8, end=8 * world.middle)
    with pytest.raises(UserError, match="has 0 arms with 6 evaluations in the first 50%"):
        tried(few)


@pytest.mark.parametrize(
    ("flops", "answers", "out", "says"),
    [
        ("much", 0.0, None, "--flops is a budget in FLOPs, as 3e15: not much"),
        ("-1", 0.0, None, "--flops is a budget"),
        ("inf", 0.0, None, "--flops is a budget"),
        ("1e12", -1.0, None, "--answers is how many questions"),
        ("1e12", 0.0, "o.xml", "--out is a .json or a .csv file"),
        ("10", 0.0, None, "1.00e+01 FLOPs buy no run of this study: the least costs"),
        ("1e12", 1e12, None, "buy no run of this study"),
        ("1e30", 0.0, None, "are beyond 10 times what was measured"),
    ],
)
def test_wrong_budgets(
    known: tuple[World, Study], flops: str, answers: float, out: str | None, says: str
) -> None:
    with pytest.raises(UserError) as caught:
        told(str(known[1].folder), flops, answers, out=out)
    assert says in str(caught.value)


def test_wrong_studies(tmp_path: Path) -> None:
    study = World(0).write(tmp_path / "s", points=14)
    table = study.folder / FILE
    whole = table.read_text().splitlines()

    def says(lines: list[str], plan: str = PLAN, answers: float = 0.0) -> str:
        (study.folder / "study.toml").write_text(plan)
        table.write_text("\n".join(lines) + "\n")
        with pytest.raises(UserError) as caught:
            told(str(study.folder), "1e12", answers)
        return str(caught.value)

    missing = [line for line in whole if not line.startswith("b-four-s1")]
    assert "has no run b-four-s1" in says(missing)
    seen = [i for i, line in enumerate(whole) if line.startswith("b-four-s1")]
    short = [line for i, line in enumerate(whole) if i not in seen[1:]]
    assert "b-four-s1 has 1 evaluations, and a curve needs 6: set evaluation.every" in says(short)
    old = [line.rsplit(",", len(LATER))[0] for line in whole]
    assert "results.csv has no answer_flops, which --answers needs" in says(old, answers=5.0)
    one = PLAN[: PLAN.index("b = [")] + PLAN[PLAN.index("[arms.group]") :]
    one = one[: one.index("sixteen")]
    assert "has one arm: there is nothing to choose between" in says(whole, one)
    table.unlink()
    with pytest.raises(UserError, match=r"there is no .*results\.csv"):
        told(str(study.folder), "1e12")


def test_old_tables_are_split_over_what_they_have(tmp_path: Path) -> None:
    world = World(0)
    study = world.write(tmp_path / "s")
    table = study.folder / FILE
    old = [line.rsplit(",", len(LATER))[0] for line in table.read_text().splitlines()]
    table.write_text("\n".join(old) + "\n")
    said = told(str(study.folder), "4e11")
    assert any("not split: SFT tokens, batch, samples at inference" in line for line in said)
    assert any("upslope train" in line for line in said)


def test_one_seed_is_split_by_its_evaluations_errors(tmp_path: Path) -> None:
    world = World(0)
    study = world.write(tmp_path / "s")
    plan = PLAN.replace("[0, 1, 2]", "[0]").replace('b = ["model=ladder:0.3m"]\n', "")
    (study.folder / "study.toml").write_text(plan)
    said = told(str(study.folder), "4e11")
    assert "90% intervals over evaluations' errors, of one seed" in said[1]
    assert not any("not trained" in line for line in said)  # two sizes make no law


def test_the_benchmark_says_how_far_behind_the_choice_is(tmp_path: Path) -> None:
    world = World(2)
    world.sft = 1e3
    study = world.write(tmp_path / "s", points=20, end=8 * world.middle)
    script = Path(__file__).parent.parent / "benchmarks" / "allocate.py"
    done = subprocess.run(
        [sys.executable, str(script), str(study.folder), "--reach", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"chosen \w, \w+ 0\.\d+, best \w, \w+ 0\.\d+, behind 0\.0\d+\n", done.stdout)
