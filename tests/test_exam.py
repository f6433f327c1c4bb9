"""``upslope eval`` and ``upslope compare``: what is asked, what is said, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from upslope.estimates import Difference
from upslope.exam import Choices, compare_models, evaluate_model, shared_env, verdict
from upslope.models.load import load, save
from upslope.recipe import dump, read
from upslope.types import UserError

SMALL = Choices(problems=12, samples=4, max_tokens=2)
LADDER, ONE_DIGIT = "ladder:0.1m", ["digits=1"]


def run_in(folder: Path, digits: int = 1, seed: int = 1) -> str:
    """A run's folder, as far as it is looked at."""
    recipe = {
        "model": LADDER,
        "env": {"type": "arithmetic", "digits": digits},
        "algorithm": {"type": "grpo"},
        "rollout": {"max_tokens": 3},
    }
    folder.mkdir()
    (folder / "recipe.toml").write_text(dump(read(recipe)))
    save(load(LADDER, seed), folder / "model")
    return str(folder)


def test_an_evaluation_in_words_and_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    choices = Choices(12, 4, "validation", 2, 0, str(out))
    about, sampled, two, four, greedy, cost = evaluate_model(
        LADDER, "arithmetic", ONE_DIGIT, choices
    )
    held = re.fullmatch(r"ladder:0.1m on (\d+) of the (\d+) validation problems of .*", about)
    assert held
    asked = int(held[1])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    hot, cold = rows[:asked], rows[asked:]
    assert {(r["temperature"], r["n"], r["split"]) for r in hot} == {(1.0, 4, "validation")}
    assert {(r["temperature"], r["n"]) for r in cold} == {(0.0, 1)}
    assert [r["problem"] for r in hot] == [r["problem"] for r in cold]
    assert all(len(r["texts"]) == len(r["answers"]) == r["n"] for r in rows)
    for line, seen in ((sampled, hot), (greedy, cold)):
        share = 100 * sum(r["correct"] / r["n"] for r in seen) / asked
        assert f"accuracy {share:.1f}% (" in line
    passed = 100 * sum(r["correct"] > 0 for r in hot) / asked
    assert f"pass@4 {passed:.1f}%" in four
    assert "pass@2" in two
    assert "worst@2" in two
    times = re.match(r"  ([\d.]+) s, ([\d.]+) times the engine's ([\d.]+) s for (\d+) tokens", cost)
    assert times
    assert float(times[2]) > 1
    assert int(times[4]) > 0


def test_greedy_alone_says_nothing_of_samples() -> None:
    choices = Choices(problems=4, samples=0, max_tokens=2)
    lines = evaluate_model(LADDER, "arithmetic", ONE_DIGIT, choices)
    assert [line.split()[0] for line in lines[1:2]] == ["greedy"]
    assert len(lines) == 3


def test_a_model_is_no_better_than_itself_and_perhaps_than_another(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", seed=0)
    lines = compare_models([LADDER, run], None, [], SMALL)
    assert lines[0].startswith("A: ladder:0.1m on ")
    assert any(line.startswith(f"B: {run} on ") for line in lines)
    # the same weights meet the same luck
    assert "  sampled              +0.0 (95% interval " in lines[-3]
    assert ", p = 1.0000, on " in lines[-3]
    assert lines[-1].startswith("No difference in sampled accuracy was seen; one of at least ")


def test_the_verdict_is_one_plain_sentence() -> None:
    better = Difference(0.123, 0.05, 0.19, 0.001, 0.1, 500)
    assert verdict("greedy", better) == (
        "B is better by 12.3 points of greedy accuracy (5.0 to 19.0)."
    )
    worse = Difference(-0.123, -0.19, -0.05, 0.001, 0.1, 500)
    assert verdict("greedy", worse) == "A" + verdict("greedy", better)[1:]
    unsure = Difference(0.02, -0.05, 0.09, 0.5, 0.1, 500)
    assert verdict("sampled", unsure).endswith(
        "one of at least 10.0 points would have been, in 4 of 5 such comparisons."
    )


def test_both_are_asked_the_same(tmp_path: Path) -> None:
    one, two = run_in(tmp_path / "one", digits=1), run_in(tmp_path / "two", digits=2)
    with pytest.raises(UserError, match="were trained on different envs or settings: name"):
        shared_env([one, two], None, [])
    assert shared_env([one, two], None, ["digits=1"]) == shared_env([LADDER, one], None, [])
    # KEY=VALUE where the env's name was expected
    assert shared_env([one, two], "digits=2", []) == shared_env([two], None, [])
    with pytest.raises(UserError, match="name an env"):
        shared_env([LADDER, LADDER], None, [])
    with pytest.raises(UserError, match="unknown env"):
        shared_env([one, two], "arithmetics", [])


def test_what_cannot_be_done_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--split is validation or test, not train"):
        evaluate_model("nothing", "arithmetic", [], Choices(split="train"))
    with pytest.raises(UserError, match=r"no folder .* for --out"):
        evaluate_model("nothing", "arithmetic", [], Choices(out=str(tmp_path / "no" / "rows")))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    with pytest.raises(UserError, match="has no final model yet"):
        compare_models(["nothing", str(tmp_path / "run")], "arithmetic", [], SMALL)
