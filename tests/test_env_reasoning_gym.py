"""Puzzles of reasoning-gym as envs: distinct, split by the question, scored in worker processes."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from replies import marks, rewards_of
from upslope.batteries import check_env
from upslope.components import build, find
from upslope.envs import ENVS
from upslope.envs import reasoning_gym as module
from upslope.envs.reasoning_gym import ASKED, ReasoningGym, score
from upslope.names import env_of
from upslope.recipe import dump, read
from upslope.rewards.workers import Outcome, Workers
from upslope.seeds import split_of
from upslope.settings import Component
from upslope.stages import built
from upslope.types import Problem, Split, UserError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SMALL: dict[str, int] = {"train": 20, "test": 5}
CHAIN = {"min_terms": 2, "max_terms": 2, "max_digits": 1}


def puzzle(form: Any = "chat") -> tuple[ReasoningGym, Problem]:
    env = ReasoningGym("chain_sum", CHAIN, form, **SMALL)
    return env, env.problems("test")[0]


@pytest.mark.parametrize("name", ["basic_arithmetic", "knights_knaves", "leg_counting"])
@pytest.mark.parametrize("form", ["chat", "text"])
def test_generators_pass_the_battery(name: str, form: Any) -> None:
    check_env(ReasoningGym(name, form=form, **SMALL), problems=1)


def test_forms() -> None:
    env, problem = puzzle()
    question = problem.info["entry"]["question"].strip()
    assert problem.messages == ({"role": "user", "content": f"{question}\n\n{ASKED}"},)
    assert problem.solution == f"<answer>{problem.answer}</answer>"
    text_env, text = puzzle("text")
    assert text.prompt.endswith(f"\n\nQuestion: {question}\nAnswer:")
    assert text.prompt.count("Question:") == 3
    assert text.solution == f" {text.answer}"
    shown = {line for line in text.prompt.split("\n\n")[:2]}
    asked = {f"Question: {p.info['entry']['question'].strip()}" for p in text_env.problems("train")}
    assert not {line.partition("\nAnswer")[0] for line in shown} & asked
    assert len(text_env.problems("train")) == len(env.problems("train")) == 20


def test_questions_are_distinct_and_split_by_their_text_whatever_the_seed() -> None:
    homes: dict[str, str] = {}
    for seed in (0, 1, 2):
        env = ReasoningGym("chain_sum", CHAIN, seed=seed, **SMALL)
        for split in SPLITS:
            questions = [p.info["entry"]["question"] for p in env.problems(split)]
            assert len(set(questions)) == len(questions) == (20 if split == "train" else 5)
            assert all(homes.setdefault(q, split) == split for q in questions)
            assert {split_of(q.strip()) for q in questions} == {split}


def test_a_generator_with_few_questions_is_named_with_the_cure() -> None:
    with pytest.raises(
        UserError, match=r"chain_sum gave \d+ different test questions in \d+ draws, not 100: lower"
    ):
        ReasoningGym("chain_sum", CHAIN).problems("test")


def test_grading() -> None:
    env, problem = puzzle()
    right, wrong = problem.answer, str(int(problem.answer) + 1)
    replies = (
        f"I add them. <answer>{right}</answer>",
        f"<answer>{wrong}</answer> no: <answer> {right} </answer> so",
        f"<answer>{right}</answer> no: <answer>{wrong}</answer>",
        right,
        f"<answer>{right}",
        "<answer></answer>",
        "",
        "\ud800<answer>\0</answer>",
        "x" * 100_000,
        "<answer>" + "9" * 100_000 + "</answer>",
    )
    seen = rewards_of(env, problem, *replies)
    assert [reward.correct for reward in seen] == [1, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    assert [reward.parts["format"] for reward in seen] == [1, 1, 1, 0, 0, 1, 0, 1, 0, 0]
    assert all(reward.valid and 0 <= reward.total <= 1 for reward in seen)
    text_env, text = puzzle("text")
    assert marks(text_env, text, f" {text.answer}\n", "") == [(1, 1), (0, 0)]


def test_a_scorer_in_parts_is_a_reward_in_parts_and_not_correct() -> None:
    env = ReasoningGym("spell_backward", **SMALL)
    problem = env.problems("test")[0]
    near = problem.answer[:-1] + "#"
    (reward,) = rewards_of(env, problem, f"<answer>{near}</answer>")
    assert 0 < reward.total < 1
    assert reward.correct == 0


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(reason="the grader raised ValueError: no"), "the grader raised ValueError: no"),
        (Outcome(float("nan")), "the scorer gave nan"),
    ],
)
def test_a_scorer_that_fails_makes_a_reward_invalid(
    monkeypatch: pytest.MonkeyPatch, outcome: Outcome, reason: str
) -> None:
    class Failing(Workers):
        async def grade(self, items: Any) -> list[Outcome]:
            return [outcome for _ in items]

    monkeypatch.setattr(module, "workers", lambda: Failing("none:none"))
    env, problem = puzzle()
    (reward,) = rewards_of(env, problem, "<answer>1</answer>")
    assert (reward.valid, reward.reason) == (False, reason)


def test_a_scorer_that_raises_is_told_from_a_wrong_answer() -> None:
    env = ReasoningGym("prime_factorization", **SMALL)
    problem = env.problems("test")[0]
    odd, right = rewards_of(env, problem, "<answer>two</answer>", problem.solution)
    assert right.correct == 1
    assert odd.correct == 0
    assert odd.valid or odd.reason.startswith("the grader raised ValueError")


def test_the_short_name() -> None:
    given = Component(type="reasoning_gym:chain_sum", train=20, test=5)
    assert (given.type, given.settings["name"]) == ("reasoning_gym", "chain_sum")
    assert env_of(given) == ReasoningGym("chain_sum", **SMALL)
    table = {"type": "reasoning_gym:chain_sum", "config": CHAIN, **SMALL}
    recipe = read({"model": "ladder:0.1m", "algorithm": {"type": "grpo"}, "env": table})
    assert built(recipe)[0].env == ReasoningGym("chain_sum", CHAIN, **SMALL)
    assert 'name = "chain_sum"' in dump(recipe)
    changed = read({"model": "m", "algorithm": {"type": "grpo"}, "env": table}, ["env.train=30"])
    assert built(changed)[0].env == ReasoningGym("chain_sum", CHAIN, train=30, test=5)
    assert Component(type="envs.py:Mine").type == "envs.py:Mine"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "env.name is missing"),
        ({"name": "chain"}, "no generator 'chain': see docs/reasoning-gym.md"),
        ({"name": "chain_sum", "config": {"terms": 2}}, "refuses its config: .*'terms'"),
        ({"name": "chain_sum", "config": {"min_terms": 0}}, "refuses its config: "),
        ({"name": "composite"}, "reasoning_gym:composite refuses its config"),
        ({"name": "chain_sum", "train": 0}, "set each to at least 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build(find(ENVS, "reasoning_gym", "env"), settings, "env")


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'upslope\[envs\]'"):
        ReasoningGym("chain_sum")


def test_scoring_is_the_generators_own() -> None:
    entry = {"question": "1 + 1", "answer": "2", "metadata": {}}
    assert score("chain_sum", "{}", entry, "2") == 1.0
