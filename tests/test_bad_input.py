"""What users get wrong: always a UserError of one sentence that names the key and the cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from upslope.launch import train_recipe
from upslope.models.load import load, save
from upslope.recipe import read
from upslope.rollout import Player
from upslope.runs import Run
from upslope.session import Built, Session
from upslope.types import UserError

BASE: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "env": {"type": "arithmetic", "digits": 1},
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 2, "group": 2, "max_tokens": 2},
    "evaluation": {"problems": 2},
    "stop": {"steps": 1},
    "machine": {"threads": 1},
    "check": {"problems": 1},
}
RECORDED = ('algorithm.type="sft"', 'source.type="recorded"')
STAGE = {"name": "rl", "stop": {"steps": 1}}
FILE = Path(__file__)

# what is wrong, and what the sentence must say
WRONG: Mapping[str, tuple[tuple[str, ...], str]] = {
    "misspelt table": (("rolout.group=4",), "unknown setting rolout: did you mean rollout?"),
    "misspelt key": (("rollout.groups=4",), "rollout.groups: did you mean rollout.group?"),
    "key without its table": (("lr=1e-3",), "unknown setting lr: did you mean learner.lr?"),
    "text for a number": (("rollout.group=four",), "rollout.group must be a whole number"),
    "fraction": (("rollout.group=2.5",), "rollout.group must be a whole number"),
    "number for a switch": (("check.enabled=1",), "check.enabled must be true or false"),
    "value for a table": (("rollout=3",), "rollout must be a table of settings"),
    "nothing to play": (("rollout.problems=0",), "rollout.problems must be a whole number of at l"),
    "temperature 0": (("rollout.temperature=0",), "rollout.temperature must be a number above 0"),
    "negative rate": (("learner.lr=-1.0",), "learner.lr must be a number above 0"),
    "infinite rate": (("learner.lr=inf",), "learner.lr"),
    "unknown correction": (("rollout.correction=none",), 'one of "decoupled", "bypass"'),
    "training split": (("evaluation.split=train",), 'evaluation.split must be one of "validation"'),
    "name with a slash": (('name="a/b"',), "name must be made of letters"),
    "no override": (("rollout.group",), "is no override: write key=value"),
    "group of 1": (("rollout.group=1",), "rollout.group=1 leaves grpo nothing to compare"),
    "unequal updates": (
        ("rollout.problems=3", "learner.updates=2"),
        "rollout.problems=3 cannot be split into learner.updates=2",
    ),
    "no end": (("stop.steps=0",), "stop has no bound"),
    "money without price": (("stop.money=3",), "set machine.price_per_hour"),
    "accuracy never measured": (("stop.accuracy=0.9",), "evaluation.every is 0"),
    "stale records": ((*RECORDED, "rollout.max_staleness=1"), "rollout.max_staleness=1 means noth"),
    "sft of rollouts": (('algorithm.type="sft"',), 'set source.type = "recorded"'),
    "grpo of records": (('source.type="recorded"',), "algorithm grpo compares the members"),
    "unknown source": (('source.type="replay"',), "source.type='replay' is unknown"),
    "unknown source setting": (
        ('source.type="rollouts"', "source.path=x"),
        "unknown setting source.path",
    ),
    "absent records": ((*RECORDED, 'source.path="none.jsonl"'), "cannot read source.path none.j"),
    "unknown env": (("env.type=arithmetics",), "unknown env arithmetics: did you mean arithmetic?"),
    "unknown algorithm": (("algorithm.type=gpro",), "unknown algorithm gpro: did you mean grpo?"),
    "unknown env setting": (("env.digit=2",), "unknown setting env.digit: did you mean env.digits"),
    "env setting of a wrong type": (("env.digits=two",), "env.digits must be a whole number"),
    "env setting out of range": (("env.digits=10",), "env: digits must be from 1 to 9"),
    "no operation": (("env.operations=[]",), "env: operations must name at least one"),
    "unknown operation": (('env.operations=["divide"]',), "env.operations.0 should be 'add'"),
    "k1 as a loss": (
        ("algorithm.kl.kind=k1", "algorithm.kl.coefficient=0.1"),
        "algorithm.kl: k1 as a loss has an expected gradient of 0",
    ),
    "negative penalty": (("algorithm.kl.coefficient=-1.0",), "kl.coefficient must not be negative"),
    "decay above 1": (
        ('algorithm.type="reinforce"', "algorithm.decay=2.0"),
        "algorithm: decay must be between 0 and 1",
    ),
    "context": (("rollout.max_tokens=600",), "rollout.max_tokens=600 after a prompt of 4 tokens"),
    "unknown size": (("model=ladder:3m",), "no ladder model has the size '3m': choose 0.1m"),
    "absent model": (('model="./no/such/folder"',), "./no/such/folder"),
    "unknown model": (("model=smolm",), "smolm"),
    "absent env file": (('env.type="none.py:Env"',), "there is no file none.py to take the env"),
    "env file without a class": ((f'env.type="{FILE}"',), f"write {FILE}:Name"),
    "class that is not there": ((f'env.type="{FILE}:Nothing"',), "unknown class Nothing"),
    "env without settings": ((f'env.type="{FILE}:UserError"',), "must be a dataclass"),
    "env that is none": (
        (f'env.type="{FILE.with_name("plays.py")}:Said"', "env.left=[]"),
        "is not an env: it needs problems, play, rewards",
    ),
    "two stages of one name": (("__stages__",), "two stages are named rl"),
}


def refusal(folder: Path, overrides: tuple[str, ...] = (), recipe: Mapping[str, Any] = BASE) -> str:
    """The one sentence that a recipe is refused with; nothing is left of the run."""
    with pytest.raises(UserError) as caught:
        train_recipe(read({**recipe, "runs": str(folder)}, overrides), lambda line: None)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    return said


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    overrides, says = WRONG[name]
    recipe = BASE
    if overrides == ("__stages__",):
        recipe, overrides = {**BASE, "stage": [STAGE, STAGE]}, ()
    assert says in refusal(tmp_path / "runs", overrides, recipe)
    assert not (tmp_path / "runs").exists()


def test_something_required_is_missing(tmp_path: Path) -> None:
    without = {key: BASE[key] for key in BASE if key != "model"}
    assert "model is missing: a known model" in refusal(tmp_path, (), without)
    without = {key: BASE[key] for key in BASE if key != "env"}
    assert "env is missing" in refusal(tmp_path, (), without)
    without = {key: BASE[key] for key in BASE if key != "algorithm"}
    assert "algorithm is missing" in refusal(tmp_path, (), without)
    nameless = {**BASE, "stage": [{"stop": {"steps": 1}}]}
    assert "stage 1 has no name" in refusal(tmp_path, (), nameless)


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(UserError, match="there is no recipe"):
        read(path)
    path.write_text("[rollout\n")
    with pytest.raises(UserError, match="is not TOML at line 1"):
        read(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(load("ladder:0.1m"), folder)
    return folder


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", b"{", "is not valid JSON"),
        ("config.json", b"{}", "names no model_type"),
        ("model.safetensors", None, "has no safetensors weights"),
        ("model.safetensors", b"half", "is damaged"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("tokenizer.json", b"{]", "is not valid JSON"),
    ],
)
def test_a_damaged_model_folder_is_named(
    tmp_path: Path, model: Path, file: str, content: bytes | None, says: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    said = refusal(tmp_path, (f'model="{folder}"',))
    assert says in said
    assert str(folder) in said


ENV = """
import asyncio, time
from dataclasses import dataclass
from upslope.envs.episodes import single_turn
from upslope.types import Problem, Reward

@dataclass(frozen=True)
class Env:
    play = single_turn

    def problems(self, split):
        names = [f"{{split}}-{{i}}" for i in range({count})]
        return [Problem(name, prompt="a", solution={solution!r}) for name in names]

    async def rewards(self, problem, trajectories):
        {rewards}
"""


def env_file(folder: Path, rewards: str, solution: str = "b", count: int = 4) -> str:
    """An env from outside the package, whose grader does this."""
    path = folder / "mine.py"
    path.write_text(ENV.format(rewards=rewards, solution=solution, count=count))
    return f'env.type="{path}:Env"'


@pytest.mark.parametrize("check", ["true", "false"])
@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        ("return [1 / 0]", "Env.rewards raised ZeroDivisionError on problem"),
        ("return [Reward(float('nan'))] * len(trajectories)", "gave a reward that is not finite"),
        ("return [Reward(0.0)]", "Env.rewards returned 1 rewards for 2 trajectories"),
        ("return None", "other than a list of Reward"),
        ("return problem.nothing", "raised AttributeError"),
    ],
)
def test_a_faulty_grader_is_named(tmp_path: Path, rewards: str, says: str, check: str) -> None:
    overrides = (env_file(tmp_path, rewards), f"check.enabled={check}", "evaluation.samples=2")
    assert says in refusal(tmp_path, overrides)


@pytest.mark.parametrize("hang", ["await asyncio.sleep(600)", "time.sleep(600)"])
def test_a_grader_that_hangs_ends_the_run_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: str
) -> None:
    sound = Session.player

    def hasty(self: Session, one: Built) -> Player:
        return replace(sound(self, one), grading=0.05)

    monkeypatch.setattr(Session, "player", hasty)
    rewards = f"""if problem.id.startswith("train"):
            {hang}
        return [Reward(0.0) for _ in trajectories]"""
    said = refusal(tmp_path, (env_file(tmp_path, rewards, ""), "check.enabled=false"))
    assert said.startswith("Env.rewards took more than 0.05 s on problem 'train-")
    with Run.resume(tmp_path / "run") as run:
        assert len(run.evaluations()) == 1
        assert run.metrics() == []


def test_an_env_without_problems_is_named(tmp_path: Path) -> None:
    env = env_file(tmp_path, "return []", count=0)
    assert "the env has no problems in" in refusal(tmp_path, (env, "check.enabled=false"))


def test_an_env_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    said = refusal(tmp_path, (f'env.type="{tmp_path / "broken.py"}:Env"',))
    assert "broken.py failed: ModuleNotFoundError" in said


def test_an_error_in_building_an_env_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, (env_file(tmp_path, "return []"), "env.size=3"))
    assert "unknown setting env.size" in said
