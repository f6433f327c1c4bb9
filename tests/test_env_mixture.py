"""Several envs as one: whose a problem is, who grades it, what recipes say and runs show."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plays import chatml
from upslope.exam import Choices, evaluate_model
from upslope.launch import train_recipe
from upslope.recipe import dump, read
from upslope.recite import spoken
from upslope.stages import built
from upslope.types import Demonstrates, UserError

TWO: list[dict[str, Any]] = [
    {"type": "arithmetic", "digits": 1, "weight": 3.0},
    {"type": "arithmetic", "label": "times", "operations": ["multiply"], "digits": 1},
]
RECIPE: dict[str, Any] = {
    "model": "ladder:0.1m",
    "env": TWO,
    "algorithm": {"type": "grpo"},
    "rollout": {"problems": 4, "group": 2, "max_tokens": 2},
    "evaluation": {"problems": 6},
    "stop": {"steps": 2},
    "machine": {"threads": 1},
}


def refusal(env: Any, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        built(read({**RECIPE, "env": env}, overrides))
    return str(caught.value)


def test_each_problem_is_graded_by_its_own_env() -> None:
    (one,) = built(read(RECIPE))
    problems = one.problems("test")
    assert Counter(p.env for p in problems[:20]) == {"arithmetic": 10, "times": 10}
    assert len({p.id for p in problems}) == len(problems)
    for problem in problems[:6]:
        plays = [spoken(chatml(), problem, text) for text in (problem.solution, "x")]
        rewards = asyncio.run(one.env.rewards(problem, plays))
        assert [r.total for r in rewards] == [1.0, 0.0]
        assert ("*" in problem.prompt) == (problem.env == "times")
    assert one.weights == {"arithmetic": 3.0, "times": 1.0}


def test_it_writes_the_demonstrations_of_all() -> None:
    (one,) = built(read(RECIPE))
    assert isinstance(one.env, Demonstrates)
    shown = list(one.env.demonstrations("train"))
    assert [p.id for p, _ in shown] == [p.id for p in one.problems("train")]
    assert all(reply == problem.solution for problem, reply in shown)


def test_a_recipe_of_several_envs_is_read_changed_and_written() -> None:
    recipe = read(RECIPE, ["env.times.digits=2", "env.arithmetic.weight=1.5"])
    (one,) = built(recipe)
    assert one.weights == {"arithmetic": 1.5, "times": 1.0}
    assert one.env.envs["times"].digits == 2  # type: ignore[attr-defined]
    import tomllib

    assert read(tomllib.loads(dump(recipe))).stages() == recipe.stages()
    alone = read(RECIPE, ["env.type=prices"])
    assert built(alone)[0].weights == {}


def test_a_stage_changes_one_of_several_envs() -> None:
    staged = {
        **RECIPE,
        "stage": [
            {"name": "easy"},
            {"name": "hard", "env": {"times": {"digits": 2}, "arithmetic": {"weight": 0.5}}},
            {"name": "alone", "env": {"type": "prices"}},
            {"name": "others", "env": [{"type": "logic"}, {"type": "countdown"}]},
        ],
    }
    easy, hard, alone, others = built(read(staged, ["stage.hard.env.times.digits=3"]))
    assert (easy.env.envs["times"].digits, easy.weights["arithmetic"]) == (1, 3.0)  # type: ignore[attr-defined]
    assert (hard.env.envs["times"].digits, hard.weights["arithmetic"]) == (3, 0.5)  # type: ignore[attr-defined]
    assert alone.weights == {}
    assert list(others.weights) == ["logic", "countdown"]


@pytest.mark.parametrize(
    ("env", "overrides", "says"),
    [
        ([TWO[0], TWO[0]], (), "two envs are called arithmetic: give each its own label"),
        ([{"digits": 1}], (), "has no type: write type"),
        ([{**TWO[0], "weight": 0}], (), "env.arithmetic.weight must be a number above 0, got 0"),
        ([{**TWO[0], "weight": "x"}], (), "env.arithmetic.weight must be a number above 0"),
        ([], (), "must be a list of tables: write [[env]] above each"),
        ([{**TWO[0], "digit": 2}], (), "unknown setting env.arithmetic.digit: did you mean"),
        (TWO, ("env.time.digits=2",), "there is no env time: write env.<label>.<key>=value"),
        ([{**TWO[0], "digits": 99}], (), "env.arithmetic: digits must be from 1 to 9"),
    ],
)
def test_wrong_mixtures(env: Any, overrides: tuple[str, ...], says: str) -> None:
    assert says in refusal(env, *overrides)


def test_an_env_without_demonstrations_is_named() -> None:
    recipe = {
        **RECIPE,
        "env": [TWO[0], {"type": "prices"}],
        "algorithm": {"type": "sft"},
        "source": {"type": "recorded"},
    }
    (one,) = built(read(recipe))
    with pytest.raises(UserError, match=r"env prices writes no demonstrations: give source\.path"):
        list(one.env.demonstrations("train"))  # type: ignore[attr-defined]


def test_a_run_shows_each_env(tmp_path: Path) -> None:
    run = train_recipe(read({**RECIPE, "runs": str(tmp_path)}), lambda line: None)
    row, seen = run.metrics()[0], run.evaluations()[0]
    assert (row["env/arithmetic/groups"], row["env/times/groups"]) == (3.0, 1.0)
    shares = 3 * row["env/arithmetic/reward"] + row["env/times/reward"]
    assert shares / 4 == pytest.approx(row["reward/mean"])
    for name in ("sampled", "greedy"):
        means = [seen[f"evaluation/env/{env}/{name}/mean"] for env in ("arithmetic", "times")]
        assert sum(means) / 2 == pytest.approx(seen[f"evaluation/{name}/mean"])
        assert seen[f"evaluation/env/times/{name}/problems"] == 3


def test_an_evaluation_says_how_each_env_went(tmp_path: Path) -> None:
    run = train_recipe(read({**RECIPE, "runs": str(tmp_path)}), lambda line: None)
    choices = Choices(problems=6, samples=2)
    lines = evaluate_model(str(run.path), None, [], choices)
    told = [line for line in lines if line.startswith("    in ")]
    assert [line.split(":")[0].split()[-1] for line in told] == ["arithmetic", "times"] * 2
    assert all(line.endswith(" of 3 problems") for line in told)
    with pytest.raises(UserError, match="times: digits must be from 1 to 9"):
        evaluate_model(str(run.path), None, ["times.digits=99"], choices)


def test_ids_inside_an_env_are_its_own() -> None:
    (one,) = built(read(RECIPE))
    problem = one.problems("test")[0]
    own = one.env.envs["arithmetic"].problems("test")[0]  # type: ignore[attr-defined]
    assert problem == replace(own, id=f"arithmetic/{own.id}", env="arithmetic")
