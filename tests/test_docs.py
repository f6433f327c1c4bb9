"""What README.md and docs/ say is true: examples run, commands parse, pages are complete.

A code block whose first line is ``# name.py`` or ``# name.toml`` is that file, for other blocks;
so is one whose fence names it. What a command trains is made small; nothing else is changed.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import upslope
import upslope.machine
import upslope.recipe
import upslope.trial
from plays import chatml
from upslope.cli import app
from upslope.demonstrations import read_demonstrations
from upslope.ledger import PHASES
from upslope.measures import rollout_metrics
from upslope.models.load import load, save
from upslope.preferences.made import train_recipe
from upslope.preferences.recipe import RewardRecipe, read_recipe
from upslope.preferences.training import Training
from upslope.recipe import Recipe, read
from upslope.recite import spoken
from upslope.runs import Run
from upslope.scaling.study import Study
from upslope.stages import built
from upslope.types import Group, Problem, Reward

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [
    (name, kind, named, code)
    for name, text in TEXTS.items()
    for kind, named, code in re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", text, re.M | re.S)
]
FILE = re.compile(r"# (\w+\.(?:py|toml))\n")
FILES = {
    named or first[1]: code for _, _, named, code in BLOCKS if (first := FILE.match(code)) or named
}
COMMANDS = [
    (page, tuple(shlex.split(line, comments=True)[1:]))
    for page, kind, _, code in BLOCKS
    if kind == "sh"
    for line in code.splitlines()
    if line.startswith("upslope ")
]
GENERATED: Any = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
SMALL = {
    "model": "ladder:0.1m",
    "runs": "runs",
    "machine": {"threads": 1},
    "rollout": {"problems": 2, "group": 2, "max_tokens": 3},
    "evaluation": {"problems": 4, "samples": 2},
    "check": {"problems": 1},
    "stop": {"steps": 2},
}
SMALL_RUN = ("model=ladder:0.1m", "machine.threads=1", "check.problems=1", "evaluation.problems=4")
SMALL_STAGE = ("rollout.problems=2", "rollout.group=2", "rollout.max_tokens=3", "stop.steps=1")
WARM = {"name": "sft", "algorithm": {"type": "sft"}, "source": {"type": "recorded"}}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with every file that the pages give, and the recipes of a clone."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shrunk(recipe: str) -> list[str]:
    """Overrides under which a page's recipe takes a moment."""
    tables = tomllib.loads(FILES[recipe]).get("stage", [])
    stages = [f"stage.{table['name']}." for table in tables] or [""]
    return [*SMALL_RUN, *(f"{stage}{change}" for stage in stages for change in SMALL_STAGE)]


def test_every_file_is_given_once() -> None:
    named = [n or FILE.match(code)[1] for _, _, n, code in BLOCKS if n or FILE.match(code)]  # type: ignore[index]
    assert sorted(named) == sorted(FILES)


def test_python_blocks_run(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but that what they train is made small."""
    trained: list[Run] = []

    def train(recipe: str, overrides: list[str]) -> Run:
        trained.append(real(recipe, [*overrides, *shrunk(recipe)]))
        return trained[-1]

    real = upslope.train
    monkeypatch.setattr(upslope, "train", train)
    for _, kind, _, code in BLOCKS:
        if kind == "python" and not FILE.match(code):
            exec(compile(code, "<docs>", "exec"), {"__name__": "docs"})
    assert [run.result() is not None for run in trained] == [True]


@pytest.mark.parametrize("part", ["better", "backwards", "brief", "guarded", "plain", "polite"])
def test_the_example_of_each_part_trains(part: str, examples: Path) -> None:
    assert callable(upslope.train)  # though a module of the package has that name, too
    recipe = f"with_{part}.toml"
    run = upslope.train(recipe, shrunk(recipe))
    assert f"{part}.py:" in (run.path / "recipe.toml").read_text(encoding="utf-8")
    assert run.metrics()[-1]["groups/used"] == 2


def test_the_agent_of_the_page_trains(examples: Path) -> None:
    pytest.importorskip("openai")
    run = upslope.train("majority.toml", shrunk("majority.toml"))
    rows = [row for row in run.trajectories() if row["stage"] == "rl"]
    played = [row for row in rows if row["step"] == 2]
    assert played
    assert all(row["valid"] and 3 <= row["tokens"] <= 9 for row in played)


def test_toml_blocks_are_recipes_or_parts_of_one(examples: Path) -> None:
    for page, kind, _, code in BLOCKS:
        if kind == "toml":
            given = tomllib.loads(code)
            if "out" in given:
                (name,) = (n for n, text in FILES.items() if text == code)
                assert read_recipe(examples / name).out == given["out"]
                continue
            if "arms" in given:
                study = Study.read(examples / "study.toml")
                assert [built(study.recipe(cell, examples, 1)) for cell in study.cells()]
                continue
            whole = {"preset", "stage", "algorithm"} & set(given)
            learned = {} if whole else {"algorithm": {"type": "grpo"}}
            base = {"model": "ladder:0.1m", "env": {"type": "arithmetic"}, **learned}
            if page.startswith("docs/reference/presets") and "env" not in given:
                base |= {"rollout": {"problems": 8}}
            assert built(read({**base, **given})), page


def test_recorded_replies_are_read(examples: Path) -> None:
    shown = read_demonstrations(examples / "replies.jsonl")
    assert [one.reply for one in shown] == ["46", "46"]


@pytest.mark.parametrize("words", [words for _, words in COMMANDS], ids=" ".join)
def test_commands_parse(words: Sequence[str], examples: Path) -> None:
    """Names, options and arguments of the real command line; nothing is run."""
    group = typer.main.get_group(app)
    context = group.make_context("upslope", list(words))
    name, command, rest = group.resolve_command(context, list(words))
    assert command is not None
    given = command.make_context(name, rest, parent=context).params
    if "recipe" in given:
        built(read(given["recipe"], given["overrides"] or []))


CHECKS = [words for page, words in COMMANDS if page.startswith("docs/add-") and words[0] == "check"]


@pytest.mark.parametrize("words", dict.fromkeys(CHECKS), ids=" ".join)
def test_the_checks_of_parts_pass(words: Sequence[str], examples: Path) -> None:
    said = CliRunner().invoke(app, [*words])
    assert said.exception is None, said.exception
    assert said.output.count("proven: ") > 4


def test_the_quickstart_word_for_word(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, in their order, on small numbers; Ctrl-C is what came before a resumed run."""

    def small(recipe: Any, overrides: Sequence[str] = ()) -> Recipe:
        less = [*shrunk(recipe), "env.train=40", "env.test=4"] if recipe in FILES else []
        return read(recipe, [*overrides, *less])

    monkeypatch.setattr(upslope.recipe, "read", small)
    monkeypatch.setattr(upslope.trial, "read", small)
    monkeypatch.setattr(upslope.machine, "cores", lambda: 1)
    for page, words in COMMANDS:
        if page == "docs/quickstart.md":
            if "--resume" in words:
                (examples / "runs" / "first" / "result.json").unlink()
            said = CliRunner().invoke(app, [*words], input="7 30=37:\n")
            assert said.exception is None, (words, said.exception)
            assert said.output
    runs = {path.parent.name for path in examples.glob("runs/*/result.json")}
    assert runs == {"first", "rloo"}


def test_the_page_on_preferences_word_for_word(examples: Path) -> None:
    """Its commands, in their order, as they stand; Ann answers three questions and goes."""
    said = {}
    for page, words in COMMANDS:
        if page == "docs/preferences.md":
            seen = CliRunner().invoke(app, [*words], input="1\n2 # shorter\n=\nq\n")
            assert seen.exception is None, (words, seen.exception)
            said[words[1]] = seen.output
    assert "Ann: 3 answered, 0 skipped, 37 left" in said["label"]
    assert "agreement on comparisons: alpha 0." in said["show"]
    assert "Ann, " in said["show"]
    for name in ("trl.jsonl.gz", "voted.parquet", "everything.jsonl"):
        assert (examples / name).stat().st_size > 100


def test_every_command_is_shown_and_every_command_named_exists() -> None:
    known = set(typer.main.get_group(app).commands)
    assert {words[0] for _, words in COMMANDS} == known
    for text in TEXTS.values():
        assert set(re.findall(r"`upslope ([\w-]+)", text)) <= known


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for text in TEXTS.values():
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = TEXTS[str(page.relative_to(ROOT))]
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"


def test_nothing_is_left_to_be_filled_in() -> None:
    assert [name for name, text in TEXTS.items() if "{{" in text] == []


@pytest.mark.parametrize("page", GENERATED)
def test_generated_pages_are_the_codes(page: str) -> None:
    """Cure: python docs/generate.py."""
    if page.endswith("reasoning_gym.md"):
        pytest.importorskip("reasoning_gym")
    assert TEXTS[f"docs/{page}"] == GENERATED[page](), "run python docs/generate.py"


def test_every_page_of_the_reference_is_generated() -> None:
    pages = {name.removeprefix("docs/") for name in TEXTS if name.startswith("docs/reference/")}
    assert pages == set(GENERATED) - {"settings.md"}


def test_metrics_page_has_what_runs_write_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = names_of(trained()) | names_of(odd(tmp_path)) | set(costly()) | names_of(judged())
    written |= names_of(preferred(tmp_path)) | modelled(tmp_path) | names_of(weighed())
    written |= names_of(audited()) | names_of(called())
    listed = re.findall(r"^\| `(\w+/[^`]+)` \|", TEXTS["docs/metrics.md"], re.M)
    patterns = {name: re.compile(re.sub(r"<\w+>", "[^/]+", name)) for name in listed}
    unlisted = [n for n in written if not any(p.fullmatch(n) for p in patterns.values())]
    unwritten = [name for name, p in patterns.items() if not any(map(p.fullmatch, written))]
    assert (unlisted, unwritten) == ([], [])


def test_metrics_page_has_every_phase() -> None:
    phases = re.findall(r"^\| `(\w+)` \|", TEXTS["docs/metrics.md"], re.M)
    assert phases == list(PHASES)


def trained() -> Run:
    """SFT, then stale GRPO of two envs with all penalties, a teacher and a budget: they write what
    a run usually does."""
    penalties = {"kl": {"coefficient": 0.1}, "entropy": {"coefficient": 0.01}}
    grpo = {"type": "grpo", **penalties}
    held = {"type": "constrained", "costs": {"length": {"budget": 2}}, "of": grpo}
    told = {"type": "distill", "teacher": "teacher", "reward": 1.0, "of": held}
    save(load("ladder:0.1m"), Path("teacher"))
    rl = {"name": "rl", "algorithm": told}
    rl |= {"rollout": {"max_staleness": 1}, "source": {"type": "rollouts", "retire": 0.9}}
    envs = [{"type": "arithmetic", "digits": n, "label": f"of-{n}"} for n in (1, 2)]
    return upslope.train({**SMALL, "env": envs, "stage": [WARM, rl]})


def called() -> Run:
    """Plays with tools: what calls of them add."""
    env = {"type": f"{Path(__file__).with_name('toolbox.py')}:Asker"}
    given = {**SMALL, "env": env, "algorithm": {"type": "grpo"}, "check": {"enabled": False}}
    return upslope.train(given | {"rollout": {"problems": 2, "group": 2, "max_tokens": 400}})


def judged() -> Run:
    """PPO with values in bins and then ILQL: what critics say."""
    rl = {"name": "rl", "algorithm": {"type": "ppo", "critic": {"form": "two_hot"}}}
    logs = {**WARM, "algorithm": {"type": "ilql", "gamma": 0.9}}
    return upslope.train({**SMALL, "env": {"type": "arithmetic"}, "stage": [rl, logs]})


def preferred(folder: Path) -> Run:
    """DPO of pairs, then KTO of a mix: what preferences add."""
    pairs = folder / "some_pairs.jsonl"
    pairs.write_text('{"prompt": "1+1=", "chosen": "2", "rejected": "3"}\n', encoding="utf-8")
    source = {"type": "recorded", "path": str(pairs)}
    dpo = {"name": "dpo", "algorithm": {"type": "dpo"}, "source": source}
    kto = {"name": "kto", "algorithm": {"type": "kto"}, "source": {"type": "mixed"}}
    return upslope.train({**SMALL, "env": {"type": "arithmetic"}, "stage": [dpo, kto]})


def modelled(folder: Path) -> set[str]:
    """What training a reward model says."""
    env = {"type": "notes", "train": 24, "test": 24}
    given = {"model": "ladder:0.1m", "out": str(folder / "judge"), "env": env}
    train_recipe(RewardRecipe.model_validate({**given, "training": Training(epochs=1)}), str)
    rows = (folder / "judge" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {name for row in rows for name in json.loads(row)}


def weighed() -> Run:
    """RL on the env's reward, with a judge whose verdicts are reported alone."""
    template = {"template": "{reply}", "max_tokens": 2, "failures": 1.0}
    judge = {"weight": 0, "reward": {"type": "judge", **template}}
    parts = {"env": {"reward": {"type": "env"}}, "judge": judge}
    reward = {"type": "mix", "parts": parts}
    rl = {"name": "rl", "algorithm": {"type": "rloo"}, "reward": reward}
    return upslope.train({**SMALL, "env": {"type": "arithmetic"}, "stage": [rl]})


def audited() -> Run:
    """Screened plays of an env with everything that an audit may ask for."""
    env = {"type": f"{Path(__file__).with_name('plays.py')}:Watched"}
    audit = {"type": "alarms", "on": "screen", "share": 1.0}
    grpo = {"type": "grpo"}
    return upslope.train(
        {**SMALL, "name": "audited", "env": env, "algorithm": grpo, "audit": audit}
    )


def odd(folder: Path) -> Run:
    """A run with a number that is not finite."""
    with Run.create(folder, "odd", "", 0) as run:
        run.log(1, "train", {"reward/mean": float("nan")})
    return run


def costly() -> dict[str, float]:
    """The metrics of a group whose env reports costs."""
    problem = Problem("p", prompt="p")
    play = spoken(chatml(), problem, "reply")
    return rollout_metrics([Group(problem, (replace(play, reward=Reward(1, {}, {"risk": 1})),))], 0)


def names_of(run: Run) -> set[str]:
    """All names in a run's rows."""
    return {name for row in (*run.metrics(), *run.evaluations()) for name in row} - {
        "step",
        "stage",
    }
