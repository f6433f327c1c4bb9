"""Runs with a critic, from recipe to model: what waits, what resumes, what is sampled with Q."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import plays
from records import Interrupt
from test_alarms import Asks
from test_resume import same, silent
from upslope.launch import train_recipe
from upslope.models.load import load
from upslope.recipe import read
from upslope.resume import resume_recipe
from upslope.runs import Run
from upslope.stages import built
from upslope.types import UserError

TWINS = {"twin": True, "polyak": 0.1, "l2": 0.01}
PPO = {"type": "ppo", "critic": {**TWINS, "place": "separate", "form": "two_hot", "bins": 5}}
ILQL = {"type": "ilql", "gamma": 0.9, "critic": {"decode": 4.0, "twin": True, "polyak": 0.2}}


def recipe(folder: Path, algorithm: dict[str, Any], **given: Any) -> dict[str, Any]:
    """A bandit of one token, of which digits are right; or recorded answers to it."""
    base: dict[str, Any] = {
        "name": "judged",
        "model": "ladder:0.1m",
        "runs": str(folder),
        "env": {"type": f"{plays.__file__}:Digits"},
        "algorithm": algorithm,
        "machine": {"threads": 1},
        "rollout": {"problems": 4, "group": 8, "max_tokens": 2},
        "learner": {"lr": 1e-3, "updates": 2, "micro_tokens": 200},
        "evaluation": {"problems": 2},
        "check": {"problems": 1},
        "stop": {"steps": 4},
        "checkpoint": {"every": 2},
    }
    if algorithm["type"] == "ilql":
        path = folder / "logs.jsonl"
        rows = [
            {"prompt": f"{c}:", "reply": reply, "reward": float(reply.isdigit())}
            for c in "abcd"
            for reply in "3x"
        ]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        base["source"] = {"type": "recorded", "path": str(path)}
    return {**base, **given}


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "model" / "model.safetensors")


def test_a_policy_that_waits_for_its_critic_stays_what_it_was(tmp_path: Path) -> None:
    """Updates that move no weights are no fault of the optimiser, and the engine's stay, too."""
    gated = {"type": "vapo", "critic": {"gate": 0.99, "pretrain": 3}}
    run = train_recipe(read(recipe(tmp_path, gated, stop={"steps": 2})), silent)
    for row in run.metrics():
        assert row["critic/policy_learns"] == row["update/grad_norm"] == 0
        assert row["critic/grad_norm"] > 0
    began = dict(load("ladder:0.1m").tensors())
    assert all(torch.equal(tensor, began[name]) for name, tensor in weights(run).items())
    with pytest.raises(UserError, match=r"after 3 steps in which values alone.*gate=0\.99"):
        train_recipe(read(recipe(tmp_path, gated)), silent)


@pytest.mark.parametrize("algorithm", [PPO, ILQL], ids=["ppo", "ilql"])
def test_a_run_with_a_critic_resumes_bitwise(algorithm: dict[str, Any], tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    one = train_recipe(read(recipe(whole, algorithm)), silent)
    given = recipe(cut, algorithm)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(read(given), silent, watches=[Interrupt(3)])
    other = resume_recipe(read(given), silent)
    same(one, other)
    folder = one.path / "checkpoints" / "step-000004"
    state = torch.load(folder / "learner.pt", weights_only=True)
    assert {"online", "target", "start", "settled"} == set(state["critic"])
    if algorithm is ILQL:
        # What was trained, and the mean Q of both heads beside it: the model that was evaluated.
        kept, q = load_file(folder / "model" / "model.safetensors"), state["critic"]["online"]
        mean = (q["heads.q.0"] + q["heads.q.1"]) / 2
        want = kept["lm_head.weight"] + 4.0 * mean
        torch.testing.assert_close(weights(one)["lm_head.weight"], want)
        assert float(mean.abs().max()) > 0
        assert not load(str(one.path / "model")).tied


def test_a_critic_goes_on_from_the_stage_before(tmp_path: Path) -> None:
    """Offline to online: values that were learned from records are there when rollouts begin."""
    logs = recipe(tmp_path, ILQL)
    critic = {"twin": True, "begins": "stage", "gate": 0.99, "pretrain": 9}
    ppo = {"type": "ppo", "critic": {**critic, "trunk": "stopped"}}
    offline = {"name": "logs", "algorithm": ILQL, "source": logs.pop("source")}
    logs.pop("algorithm")
    online = {"name": "rl", "algorithm": ppo, "stop": {"steps": 1}}
    given = {**logs, "stage": [offline, online], "checkpoint": {"every": 1, "keep": 9}}
    online["learner"] = {"lr": 1e-9}  # so that nothing is forgotten
    run = train_recipe(read(given), silent)
    kept = [
        torch.load(path / "learner.pt", weights_only=True)["critic"]["online"]
        for path in sorted((run.path / "checkpoints").iterdir())
    ]
    assert float(kept[-2]["heads.value.bias"].abs().max()) > 0
    before, after = (state["heads.value.weight"] for state in kept[-2:])
    torch.testing.assert_close(after, before, atol=1e-7, rtol=0)
    with pytest.raises(UserError, match=r'stage\.rl\.algorithm\.critic\.begins="stage" needs'):
        built(read({**given, "stage": [{**offline, "algorithm": {"type": "sft"}}, online]}))


def test_q_is_in_the_head_once_over_stages(tmp_path: Path) -> None:
    """Stages that hardly learn go on from one that did: their models are its model."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()

    def staged(folder: Path) -> dict[str, Any]:
        given = recipe(folder, ILQL, checkpoint={"every": 1, "keep": 9})
        own = given.pop("algorithm")
        goes_on = {**own, "critic": {**own["critic"], "begins": "stage"}}
        still = {"algorithm": goes_on, "learner": {"lr": 1e-9}, "stop": {"steps": 2}}
        first = {"name": "first", "algorithm": own}
        return {**given, "stage": [first, *({"name": n, **still} for n in ("second", "third"))]}

    run = train_recipe(read(staged(whole)), silent)
    learned = run.path / "checkpoints" / "step-000004"
    q = torch.load(learned / "learner.pt", weights_only=True)["critic"]["online"]
    mean = 4.0 * (q["heads.q.0"] + q["heads.q.1"]) / 2
    assert float(mean.abs().max()) > 1e-3
    want = load_file(learned / "model" / "model.safetensors")["lm_head.weight"] + mean
    torch.testing.assert_close(weights(run)["lm_head.weight"], want, atol=1e-6, rtol=0)
    with pytest.raises(KeyboardInterrupt):
        train_recipe(read(staged(cut)), silent, watches=[Interrupt(7)])
    same(run, resume_recipe(read(staged(cut)), silent))


def test_a_roll_back_puts_back_the_head_without_q(tmp_path: Path) -> None:
    given = recipe(tmp_path, ILQL, checkpoint={"every": 1, "keep": 9}, stop={"steps": 5})
    run = train_recipe(read(given), silent, watches=[Asks(3, 1)])
    heads = {
        int(path.name.removeprefix("step-")): load_file(path / "model" / "model.safetensors")
        for path in (run.path / "checkpoints").iterdir()
    }
    one, back = (heads[step]["lm_head.weight"] for step in (1, 4))  # 4 is the version it took
    assert torch.equal(one, back)
    assert not torch.equal(one, heads[5]["lm_head.weight"])


def test_sampling_by_q_beats_what_was_imitated(tmp_path: Path) -> None:
    """From answers of which 40% are right."""
    path = tmp_path / "logs.jsonl"
    rows = [
        {"prompt": f"{c}:", "reply": reply, "reward": float(reply == "3")}
        for c in "abcd"
        for reply in "33xxx"
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    right = {}
    for name in ("sft", "ilql"):
        given = recipe(tmp_path, {"type": name}, stop={"steps": 60}, checkpoint={"every": 0})
        given["source"] = {"type": "recorded", "path": str(path)}
        given["rollout"] = {"problems": 20, "max_tokens": 2}
        given["learner"] = {"lr": 5e-3, "micro_tokens": 400}
        given["evaluation"] = {"problems": 2, "samples": 100}
        result = train_recipe(read(given), silent).result()
        assert result is not None
        right[name] = result.after.sampled.mean
    assert 0.25 < right["sft"] < 0.55
    assert right["ilql"] > 0.85


def test_a_gate_without_steps_to_reach_it_is_refused_before_anything_is_loaded() -> None:
    for critic in ({"gate": 0.5}, {"pretrain": 10}):
        given = {"model": "none", "env": {"type": "arithmetic"}}
        given |= {"algorithm": {"type": "ppo", "critic": critic}}
        with pytest.raises(UserError, match="values that were never learned stay below any gate"):
            built(read(given))
