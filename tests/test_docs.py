"""What README.md and docs/ say is true: examples run, commands parse, pages are complete.

A code block whose first line is ``# name.py`` or ``# name.toml`` is that file, for other blocks.
"""

from __future__ import annotations

import re
import runpy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main

import upslope
from plays import chatml
from upslope.cli import app
from upslope.ledger import PHASES
from upslope.measures import rollout_metrics
from upslope.recipe import read
from upslope.runs import Run
from upslope.sources import spoken
from upslope.stages import built
from upslope.trial import check_component
from upslope.types import Group, Problem, Reward

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
BLOCKS = [
    (name, kind, code)
    for name, text in TEXTS.items()
    for kind, code in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)
]
FILE = re.compile(r"# (\w+\.(?:py|toml))\n")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for _, kind, code in BLOCKS
    if kind == "sh"
    for line in code.splitlines()
    if line.startswith("upslope ")
]
SMALL = {
    "model": "ladder:0.1m",
    "runs": "runs",
    "machine": {"threads": 1},
    "rollout": {"problems": 2, "group": 2, "max_tokens": 3},
    "evaluation": {"problems": 4},
    "check": {"problems": 1},
    "stop": {"steps": 2},
}
SHRUNK = [
    "model=ladder:0.1m",
    "machine.threads=1",
    "rollout.group=2",
    "evaluation.problems=4",
    "stage.sft.rollout.problems=2",
    "stage.rl.rollout.problems=2",
    "stage.sft.stop.steps=1",
    "stage.rl.stop.steps=1",
]
WARM = {"name": "sft", "algorithm": {"type": "sft"}, "source": {"type": "recorded"}}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with every file that the pages give."""
    for _, _, code in BLOCKS:
        if named := FILE.match(code):
            (tmp_path / named[1]).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks_run(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but that what they train is made small."""
    trained: list[Run] = []

    def train(recipe: str, overrides: list[str]) -> Run:
        trained.append(real(recipe, [*overrides, *SHRUNK]))
        return trained[-1]

    real = upslope.train
    monkeypatch.setattr(upslope, "train", train)
    for _, kind, code in BLOCKS:
        if kind == "python" and not FILE.match(code):
            exec(compile(code, "<docs>", "exec"), {"__name__": "docs"})
    assert [run.result() is not None for run in trained] == [True]


def test_the_example_algorithm_and_env_are_sound_and_train_together(examples: Path) -> None:
    assert callable(upslope.train)  # though a module of the package has that name, too
    check_component("better.py:Better", [])
    check_component("backwards.py:Backwards", ["letters=5"])
    stages = [WARM, {"name": "rl", "algorithm": {"type": "better.py:Better"}}]
    run = upslope.train({**SMALL, "env": {"type": "backwards.py:Backwards"}, "stage": stages})
    assert [row["stage"] for row in run.metrics()] == ["sft", "sft", "rl", "rl"]


def test_toml_blocks_are_recipes(examples: Path) -> None:
    recipes = sorted(examples.glob("*.toml"))
    assert recipes
    for path in recipes:
        assert built(read(path))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words: list[str], examples: Path) -> None:
    """Names, options and arguments of the real command line; nothing is run."""
    group = typer.main.get_group(app)
    context = group.make_context("upslope", list(words))
    name, command, rest = group.resolve_command(context, list(words))
    assert command is not None
    given = command.make_context(name, rest, parent=context).params
    if "recipe" in given:
        built(read(given["recipe"], given["overrides"] or []))


def test_every_command_is_shown_and_every_command_named_exists() -> None:
    known = set(typer.main.get_group(app).commands)
    assert {words[0] for words in COMMANDS} == known
    for text in TEXTS.values():
        assert set(re.findall(r"`upslope (\w+)", text)) <= known


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for text in TEXTS.values():
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= targets


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[page.name]):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_nothing_is_left_to_be_filled_in() -> None:
    assert [name for name, text in TEXTS.items() if "{{" in text] == []


def test_settings_page_is_the_codes() -> None:
    """Cure: python docs/generate.py."""
    made: Any = runpy.run_path(str(ROOT / "docs" / "generate.py"))["page"]
    assert TEXTS["settings.md"] == made()


def test_metrics_page_has_what_runs_write_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = names_of(trained()) | names_of(odd(tmp_path)) | set(costly())
    listed = re.findall(r"^\| `(\w+/[^`]+)` \|", TEXTS["metrics.md"], re.M)
    patterns = {name: re.compile(re.sub(r"<\w+>", "[^/]+", name)) for name in listed}
    unlisted = [n for n in written if not any(p.fullmatch(n) for p in patterns.values())]
    unwritten = [name for name, p in patterns.items() if not any(map(p.fullmatch, written))]
    assert (unlisted, unwritten) == ([], [])


def test_metrics_page_has_every_phase() -> None:
    phases = re.findall(r"^\| `(\w+)` \|", TEXTS["metrics.md"], re.M)
    assert phases == list(PHASES)


def trained() -> Run:
    """SFT, then GRPO with a KL: between them they write whatever a run usually writes."""
    rl = {"name": "rl", "algorithm": {"type": "grpo", "kl": {"coefficient": 0.1}}}
    env = {"type": "arithmetic", "digits": 1}
    return upslope.train({**SMALL, "env": env, "stage": [WARM, rl]})


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
