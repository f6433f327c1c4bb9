"""Recipes: what is read, what is refused and in which words, what a stage resolves to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upslope.recipe import Recipe, describe, dump, explain, read, settings_count
from upslope.types import UserError

BASE: dict[str, Any] = {
    "model": "ladder:0.6m",
    "env": {"type": "arithmetic", "digits": 2},
    "algorithm": {"type": "grpo", "clip": 0.2},
}
STAGED = """
model = "ladder:0.6m"
env = { type = "arithmetic", digits = 2 }
algorithm = { type = "grpo", clip = 0.2 }
[learner]
lr = 1e-4
[[stage]]
name = "sft"
algorithm.type = "sft"
source = { type = "recorded", path = "wrong.jsonl" }
learner = { lr = 1e-3, updates = 4 }
stop.steps = 30
[[stage]]
name = "rl"
algorithm.clip = 0.3
rollout.group = 16
"""


def refusal(given: Any, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        read(given, overrides)
    return str(caught.value)


def test_defaults_overrides_and_raw_component_settings() -> None:
    recipe = read(BASE, ["rollout.group=16", "learner.lr=1", "model=./my/model", "env.ops=['+']"])
    assert recipe.rollout.group == 16
    assert recipe.learner.lr == 1.0
    assert isinstance(recipe.learner.lr, float)
    assert recipe.model == "./my/model"
    assert recipe.source.type == "rollouts"
    assert recipe.env is not None
    assert recipe.env.settings == {"digits": 2, "ops": ["+"]}


def test_the_last_of_equal_overrides_wins_and_another_type_replaces_a_component() -> None:
    recipe = read(BASE, ["seed=1", "algorithm.type=rloo", "seed=2"])
    assert recipe.seed == 2
    assert recipe.algorithm is not None
    assert recipe.algorithm.settings == {}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("lr=3", "unknown setting lr: did you mean learner.lr?"),
        ("optimizer.lr=3", "unknown setting optimizer.lr: did you mean learner.lr?"),
        ("rolout.group=3", "unknown setting rolout: did you mean rollout?"),
        ("rollout.gruop=3", "unknown setting rollout.gruop: did you mean rollout.group?"),
        ("rollout.zzz=3", "unknown setting rollout.zzz: there is problems, group, max_tokens"),
        ("rollout.group=true", "rollout.group must be a whole number of at least 1, not true"),
        ("rollout.group=8.0", "rollout.group must be a whole number of at least 1, not 8.0"),
        ("rollout.group=eight", 'rollout.group must be a whole number of at least 1, not "eight"'),
        ("rollout.group=0", "rollout.group must be a whole number of at least 1, not 0"),
        ("rollout.group.x=1", 'rollout.group must be a whole number of at least 1, not {"x": 1}'),
        ("rollout=3", "rollout must be a table of settings, not 3"),
        ("learner.lr=nan", "learner.lr must be a number above 0, not NaN"),
        ("learner.beta1=1", "learner.beta1 must be a number of at least 0 and below 1, not 1"),
        ("learner.dtype=fp8", 'learner.dtype must be one of "float32", "bfloat16", not "fp8"'),
        ("check.enabled=1", "check.enabled must be true or false, not 1"),
        ("env=3", "env must be a table with a `type`, not 3"),
        ("name=a/b", "name must be made of letters, digits, '.', '_' and '-', not \"a/b\""),
        ("model=''", 'model must be text that is not empty, not ""'),
        ("rollout.group", "'rollout.group' is no override: write key=value"),
        ("learner.updates=3", "rollout.problems=8 cannot be split into learner.updates=3"),
        ("rollout.importance_floor=3", "rollout.importance_floor=3 is above rollout.importance_c"),
        ("preset=grop", "unknown preset grop: did you mean grpo?"),
        ("preset=3", "preset must be text, not 3"),
        ("stop.steps=0", "stop has no bound, so the run would never end: set stop.steps"),
        ("stop.money=2", "stop.money=2 needs a price: set machine.price_per_hour"),
        ("stop.accuracy=0.9", "stop.accuracy=0.9 is never measured while evaluation.every is 0"),
        ("stage.sft.stop.steps=3", "unknown stage sft: there is none here"),
    ],
)
def test_refusals_name_the_key_and_the_cure(override: str, sentence: str) -> None:
    assert refusal(BASE, override).startswith(sentence)


def test_a_misspelt_key_explains_the_one_that_is_missing() -> None:
    assert "did you mean model?" in refusal({**BASE, "modle": "x"} | {"model": "y"})
    assert refusal({"modle": "x"}) == "unknown setting modle: did you mean model?"
    assert refusal({}).startswith("model is missing: a known model")
    assert refusal({"model": "m"}).startswith("env is missing: problems and rewards")
    assert refusal({**BASE, "env": {"digits": 2}}).startswith("env.type is missing")


def test_staleness_means_nothing_for_recorded_data() -> None:
    sentence = refusal(BASE, "source.type=recorded", "rollout.max_staleness=2")
    assert sentence.startswith("rollout.max_staleness=2 means nothing for recorded data")


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text('model = "m"\nseed = = 3\n')
    assert refusal(broken) == f"{broken} is not TOML at line 2, column 8: Invalid value"
    assert refusal(tmp_path / "none.toml") == f"there is no recipe {tmp_path / 'none.toml'}"
    broken.write_bytes(b"\xff\xfe")
    assert refusal(broken) == f"{broken} is not TOML: it is not UTF-8 text"
    assert refusal(tmp_path).startswith(f"cannot read the recipe {tmp_path}")


def test_a_recipe_is_named_after_its_file_and_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "two stages.toml"
    path.write_text(STAGED)
    recipe = read(path, ["learner.eps=1e-7"])
    assert recipe.name == "two-stages"
    copy = tmp_path / "copy.toml"
    copy.write_text(dump(recipe))
    assert read(copy) == recipe
    assert read(copy).stages() == recipe.stages()


def test_one_stage_named_train_where_none_is_given() -> None:
    (stage,) = read(BASE).stages()
    assert (stage.name, stage.env.type, stage.stop.steps) == ("train", "arithmetic", 100)


def staged(tmp_path: Path, *overrides: str) -> Recipe:
    path = tmp_path / "staged.toml"
    path.write_text(STAGED)
    return read(path, overrides)


def test_stages_merge_onto_the_base(tmp_path: Path) -> None:
    sft, rl = staged(tmp_path, "stage.sft.stop.steps=7", "rollout.problems=16").stages()
    assert sft.algorithm.settings == {}
    assert sft.source.settings == {"path": "wrong.jsonl"}
    assert (sft.learner.lr, rl.learner.lr) == (1e-3, 1e-4)
    assert (sft.stop.steps, rl.stop.steps) == (7, 100)
    assert (rl.algorithm.type, rl.algorithm.settings) == ("grpo", {"clip": 0.3})
    assert (sft.rollout.problems, rl.rollout.group) == (16, 16)


def test_an_override_that_a_stage_would_hide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"by the stage sft itself: write stage\.sft\.learner\.lr="):
        staged(tmp_path, "learner.lr=0.5")
    assert staged(tmp_path, "stage.sft.learner.lr=0.5").stages()[0].learner.lr == 0.5


def test_an_override_of_a_component_that_every_stage_replaces_is_refused() -> None:
    given = {**BASE, "stage": [{"name": "a", "algorithm": {"type": "sft"}}]}
    assert refusal(given, "algorithm.beta=1") == (
        "algorithm.beta reaches no stage: each has another algorithm"
    )


def test_stage_errors_name_the_stage(tmp_path: Path) -> None:
    stage: dict[str, Any] = {"name": "rl", "rollout": {"gruop": 3}}
    assert refusal({**BASE, "stage": [stage]}) == (
        "unknown setting stage.rl.rollout.gruop: did you mean stage.rl.rollout.group?"
    )
    stage["rollout"] = {"problems": 6}
    stage["learner"] = {"updates": 4}
    sentence = refusal({**BASE, "stage": [stage]})
    assert sentence.startswith("stage.rl.rollout.problems=6 cannot be split into stage.rl.learner")
    assert refusal({**BASE, "stage": [{"name": "a"}, {"name": "a"}]}).startswith("two stages are")
    assert refusal({**BASE, "stage": [{}]}).startswith("stage 1 has no name")
    assert refusal({**BASE, "stage": [{"name": 3}]}).startswith("stage 1 has no name")
    assert refusal({**BASE, "stage": 3}).startswith("stage must be a list, not 3")
    with pytest.raises(UserError, match="unknown stage sfd: did you mean sft"):
        staged(tmp_path, "stage.sfd.stop.steps=3")
    with pytest.raises(UserError, match=r"write stage\.<name>\.<key>=value"):
        staged(tmp_path, "stage=3")


def test_a_stage_may_bring_its_own_env_and_algorithm() -> None:
    own = {"name": "a", "env": {"type": "arithmetic"}, "algorithm": {"type": "grpo"}}
    (stage,) = read({"model": "m", "stage": [own]}).stages()
    assert stage.algorithm.type == "grpo"


def test_there_are_at_most_sixty_settings_each_with_a_type_and_a_meaning() -> None:
    assert settings_count() <= 60
    for row in describe():
        assert row.type, row.key
        assert row.meaning != "it has no default", row.key
        assert row.default or row.key in ("env", "algorithm", "preset"), row.key


def test_explain() -> None:
    row = explain("rollout.group")
    assert row == ("rollout.group", "a whole number of at least 1", "8", row.meaning)
    with pytest.raises(UserError, match=r"did you mean rollout\.group"):
        explain("group")
