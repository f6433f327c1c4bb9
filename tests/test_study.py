"""Studies: what is run, what is not run again, the table, and what the report makes of it."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from test_forecast import TRUE, written
from upslope.runs import Run
from upslope.scaling import study as studies
from upslope.scaling.report import report, run_and_report
from upslope.scaling.results import LATER, NUMBERS, parameters, read_results, write_results
from upslope.scaling.study import Study
from upslope.types import UserError

PLAN = """
about = "Does a larger group pay?"
recipe = "base.toml"
seeds = [0, 1, 2]
budget = {amount = 5e15}

[arms.group]
small = []
large = ["rollout.group=16"]
"""
BASE = """
model = "ladder:0.1m"

[env]
type = "arithmetic"
digits = 1

[algorithm]
type = "grpo"

[rollout]
problems = 2
group = 2
max_tokens = 2

[evaluation]
problems = 4
every = 1

[stop]
steps = 2
"""


def planned(folder: Path, plan: str = PLAN) -> Study:
    """A study's folder with its base recipe."""
    folder.mkdir(exist_ok=True)
    (folder / "study.toml").write_text(plan)
    (folder / "base.toml").write_text(BASE)
    return Study.read(folder)


def finished(study: Study, runs: Path, lift: float = 0.0) -> list[Run]:
    """Runs as if they had been trained; the larger group's ceiling is higher by ``lift``."""
    found = []
    for cell in study.cells():
        ceiling = TRUE["ceiling"] + (lift if cell.arms["group"] == "large" else 0)
        run = written(runs, cell.name, cell.seed, ceiling=ceiling)
        (run.path / "model").mkdir()
        (run.path / "model" / "config.json").write_text("{}")
        header = b'{"w": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}'
        body = len(header).to_bytes(8, "little") + header + bytes(60)
        (run.path / "model" / "model.safetensors").write_bytes(body)
        found.append(run)
    return found


def test_cells_are_all_arms_of_all_seeds_and_named_for_good(tmp_path: Path) -> None:
    study = planned(tmp_path / "s")
    names = [cell.name for cell in study.cells()]
    assert names == ["small-s0", "large-s0", "small-s1", "large-s1", "small-s2", "large-s2"]
    recipe = study.recipe(study.cells()[1], tmp_path / "runs", 1)
    assert (recipe.rollout.group, recipe.seed, recipe.name) == (16, 0, "large-s0")


def test_the_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    study = planned(tmp_path / "s")
    runs = finished(study, tmp_path / "runs")
    write_results(study, runs)
    lines = read_results(study)
    for line, run in zip(lines, runs, strict=True):
        rows = run.evaluations()
        assert line.columns["sampled_mean"].tolist() == [r["evaluation/sampled/mean"] for r in rows]
        assert line.columns["flops"].tolist() == [r["ledger/training_flops"] for r in rows]
        assert line.columns["stage_flops"][0] == 0
        assert line.parameters == line.active_parameters == 15
        assert (line.columns["samples"] == 1).all()
        assert np.isnan(line.columns["answer_flops"]).all()  # these runs' ledger has none
    middle = (lines[0].columns["flops"][3] + lines[0].columns["flops"][4]) / 2
    two = lines[0].columns["sampled_mean"][3:5]
    assert lines[0].at("flops", float(middle)) == pytest.approx(two.mean())
    assert np.isnan(lines[0].at("flops", 1e20))


@pytest.mark.parametrize(("lift", "says"), [(0.15, r"\*\*better\*\*"), (0.0, "not significant")])
def test_the_report_is_made_from_the_table_alone(tmp_path: Path, lift: float, says: str) -> None:
    study = planned(tmp_path / "s")
    write_results(study, finished(study, tmp_path / "runs", lift))
    for path in (tmp_path / "runs").iterdir():
        path.rename(tmp_path / f"gone-{path.name}")
    report(study)
    text = (study.folder / "report.md").read_text()
    assert re.search(rf"- group small to large: .*{says}", text)
    for arm in ("small", "large"):
        assert re.search(rf"\| {arm} \| 15 \| \d+\.\d% \(.* to .*\) \| .* \| 3 \|", text)
        assert re.search(rf"- {arm}: (floor|ceiling)", text)
    picture = ET.parse(study.folder / "curves.svg").getroot()
    assert len(picture.findall("{*}polygon")) == 2
    assert report(study) == [str(study.folder / n) for n in ("report.md", "curves.svg")]


SHIPPED = sorted(Path(__file__).parents[1].glob("studies/*/results.csv"))


@pytest.mark.parametrize("table", SHIPPED, ids=lambda path: path.parent.name)
def test_reports_in_the_repository_are_what_their_tables_give(table: Path, tmp_path: Path) -> None:
    for name in ("study.toml", "results.csv"):
        (tmp_path / name).write_bytes((table.parent / name).read_bytes())
    report(Study.read(tmp_path))
    assert (tmp_path / "report.md").read_text() == (table.parent / "report.md").read_text()


def test_a_study_is_run_and_not_run_again(tmp_path: Path) -> None:
    plan = PLAN.replace("[0, 1, 2]", "[0]").replace("5e15", "1e6")
    planned(tmp_path / "s", plan)
    said = list[str]()
    written = run_and_report(str(tmp_path / "s"), str(tmp_path / "runs"), 1, said.append)
    assert [Path(path).name for path in written] == ["results.csv", "report.md", "curves.svg"]
    assert said[0] == "2 runs, 0 of them finished, 1 at once"
    table = (tmp_path / "s" / "results.csv").read_text()
    assert len(table.splitlines()) == 1 + 2 * 3
    assert all(name in table.splitlines()[0].split(",") for name in (*NUMBERS, *LATER))
    lines = read_results(Study.read(tmp_path / "s"))
    costs = np.array([line.columns["answer_flops"] for line in lines])
    evaluation = Run.open(tmp_path / "runs" / "small-s0").evaluations()[0]
    assert costs[0, 0] == evaluation["ledger/flops/evaluation"] / 8  # 4 problems, twice each
    assert (np.abs(costs / costs[0, 0] - 1) < 0.5).all()  # replies differ a little in length
    said.clear()
    run_and_report(str(tmp_path / "s"), str(tmp_path / "runs"), 1, said.append)
    assert said == ["2 runs, 2 of them finished, 1 at once"]
    assert (tmp_path / "s" / "results.csv").read_text() == table


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    plan = PLAN.replace("[0, 1, 2]", "[0]").replace("rollout.group=16", "model=no/such-model")
    planned(tmp_path / "s", plan)
    said = list[str]()
    with pytest.raises(UserError, match="1 of 2 runs failed, the first one: large-s0: upslope: "):
        run_and_report(str(tmp_path / "s"), str(tmp_path / "runs"), 1, said.append)
    assert (tmp_path / "runs" / "small-s0" / "result.json").is_file()


def test_ctrl_c_ends_the_runs_also_where_it_reached_only_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, runs, said = planned(tmp_path / "s"), tmp_path / "runs", list[str]()
    monkeypatch.setattr(studies, "PATIENCE", 0.1)
    monkeypatch.setattr(studies, "COMMAND", "print('on', flush=True)\nimport time\ntime.sleep(99)")

    def stop() -> None:
        logs = [runs / f"{name}-s0.log" for name in ("small", "large")]
        while not all(log.is_file() and log.read_text() for log in logs):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    start = time.monotonic()
    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        studies.run_study(study, runs, 2, 1, said.append)
    thread.join()
    assert time.monotonic() - start < 60
    assert said[-1] == f"stopped: what is finished is kept in {runs}; the same command goes on"
    logs = {log.stem: log.read_text() for log in runs.glob("*.log")}
    assert set(logs) == {"small-s0", "large-s0"}  # no other run was begun
    assert all("KeyboardInterrupt" in text for text in logs.values())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("budget = {amount = 5e15}", ""), "budget is missing"),
        (("amount = 5e15", "amount = 0"), "budget.amount"),
        (("seeds = [0, 1, 2]", "seeds = [1, 1]"), "two runs would both be called small-s1"),
        (("seeds", "seed"), "unknown setting seed: did you mean seeds"),
        (('"rollout.group=16"', '"rollout.grup=16"'), "large-s0: unknown setting rollout.grup"),
        (("base.toml", "none.toml"), "there is no recipe"),
        (("[arms.group]", "[arms.group"), "is not TOML"),
    ],
)
def test_wrong_studies(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    def tried() -> None:
        planned(tmp_path / "s", PLAN.replace(*change))
        run_and_report(str(tmp_path / "s"), str(tmp_path / "runs"), 1, lambda line: None)

    with pytest.raises(UserError) as caught:
        tried()
    assert says in str(caught.value)


def test_wrong_tables(tmp_path: Path) -> None:
    study = planned(tmp_path / "s")
    with pytest.raises(UserError, match=r"there is no .*results\.csv: upslope study run"):
        report(study)
    path = write_results(study, finished(study, tmp_path / "runs"))
    whole = path.read_text()
    path.write_text(whole.replace("large-s2", "large-s9"))
    with pytest.raises(UserError, match="has no run large-s2"):
        report(study)
    path.write_text(whole.replace(",15,15,", ",15,x,", 1))
    with pytest.raises(UserError, match="is damaged at small-s0"):
        report(study)
    with pytest.raises(UserError, match="there is no study"):
        Study.read(tmp_path / "none")


def test_models_said_to_be_equal_are(tmp_path: Path) -> None:
    study = planned(tmp_path / "s", 'equal = ["parameters"]\n' + PLAN)
    path = write_results(study, finished(study, tmp_path / "runs"))
    report(study)
    path.write_text(path.read_text().replace("large-s0,large,0,15,15", "large-s0,large,0,16,16"))
    with pytest.raises(UserError, match="small-s0 has 15 parameters and large-s0 16"):
        report(study)


def test_experts_that_a_token_does_not_take_are_not_active(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_experts": 8, "num_experts_per_tok": 2}')
    header = b'{"__metadata__": {}, "a": {"shape": [10]}, "l.mlp.experts.w": {"shape": [8, 5, 2]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert parameters(tmp_path) == (90, 30)
