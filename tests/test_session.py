"""A recipe's names as objects: what is resolved, what stages share, what each has for itself."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from plays import group_of
from upslope import machine
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.sft import SFT
from upslope.devices import device_of, fitting_tokens
from upslope.envs.arithmetic import Arithmetic
from upslope.recipe import read
from upslope.runs import Run
from upslope.session import Session
from upslope.sources import Recorded, Rollouts
from upslope.types import Reward, Usage, UserError

STAGES: Mapping[str, Any] = {
    "model": "ladder:0.1m",
    "seed": 3,
    "env": {"type": "arithmetic", "digits": 1, "wrong": 0.5},
    "rollout": {"problems": 2, "group": 4, "max_tokens": 4, "rows": 16},
    "machine": {"threads": 1},
    "stage": [
        {"name": "sft", "algorithm": {"type": "sft"}, "source": {"type": "recorded"}},
        {
            "name": "rl",
            "algorithm": {"type": "grpo", "clip_high": 0.3, "kl": {"coefficient": 0.1}},
            "rollout": {"rows": 64, "temperature": 0.8, "max_staleness": 2},
        },
    ],
}


@pytest.fixture(scope="module")
def made() -> Session:
    return Session(read(STAGES), print)


def test_names_become_objects(made: Session) -> None:
    sft, rl = made.stages
    assert (sft.algorithm, sft.env) == (SFT(), Arithmetic(digits=1, wrong=0.5))
    assert isinstance(rl.algorithm, GRPO)
    assert (rl.algorithm.clip_high, rl.algorithm.kl.coefficient) == (0.3, 0.1)
    assert isinstance(made.source(sft), Recorded)
    source = made.source(rl)
    assert isinstance(source, Rollouts)
    assert (source.size, source.seed, source.max_staleness, source.tries) == (4, 3, 2, 4)
    assert (source.player.temperature, source.player.max_tokens) == (0.8, 4)
    assert source.player.engine is made.engine


def test_what_the_machine_decides_is_resolved_once(made: Session) -> None:
    assert made.recipe.machine.threads == torch.get_num_threads() == 1
    tokens = made.recipe.learner.micro_tokens
    assert tokens > 0
    assert [one.stage.learner.micro_tokens for one in made.stages] == [tokens] * 2
    assert Session(made.recipe, print).recipe == made.recipe


def test_the_demonstrations_are_the_envs(made: Session) -> None:
    source = made.source(made.stages[0])
    assert isinstance(source, Recorded)
    shown = list(Arithmetic(digits=1, wrong=0.5).demonstrations("train"))
    assert [(d.problem, d.reply) for (d,) in source.sets] == shown
    wrong = [problem for problem, reply in shown if reply != problem.solution]
    assert 0 < len(wrong) < len(shown)


def test_a_reference_is_kept_where_it_is_needed_and_never_moves(
    made: Session, tmp_path: Path
) -> None:
    sft, rl = made.stages
    with Run.create(tmp_path, "run", "", 0) as run:
        assert made.learner(sft, run, resumed=False).reference is None
        learner = made.learner(rl, run, resumed=False)
        again = made.learner(rl, run, resumed=True)
    assert again.reference is not None
    kept = next(again.reference.model.parameters())
    assert learner.reference is not None
    assert learner.policy is made.policy
    theirs = next(learner.reference.model.parameters())
    ours = next(made.policy.model.parameters())
    assert torch.equal(theirs, ours)
    assert torch.equal(theirs, kept)
    assert not kept.requires_grad
    assert theirs.data_ptr() != ours.data_ptr()
    assert (theirs.requires_grad, ours.requires_grad) == (False, True)


def test_sampling_is_charged_by_phase(made: Session) -> None:
    group = group_of([Reward(1.0), Reward(0.0)])
    before = made.ledger.row()
    for trajectory in group.trajectories:
        used = Usage(computed=3, cached=9, decoded=2, prefill_flops=10.0, decode_flops=4.0)
        object.__setattr__(trajectory, "usage", used)
    made.charge(group)
    after = made.ledger.row()
    spent = {k: after[k] - before.get(k, 0) for k in after if "seconds" not in k}
    assert {k: v for k, v in spent.items() if v} == {
        "ledger/flops": 28,
        "ledger/training_flops": 28,
        "ledger/tokens": 10,
        "ledger/flops/prefill": 20,
        "ledger/flops/decode": 8,
        "ledger/tokens/prefill": 6,
        "ledger/tokens/decode": 4,
    }


def test_held_out_problems_are_the_first_of_their_split() -> None:
    overrides = ["evaluation.problems=5", 'evaluation.split="validation"']
    made = Session(read(STAGES, overrides), print)
    for one in made.stages:
        wanted = list(one.env.problems("validation"))[:5]
        assert made.held_out(one) == {"validation": wanted}


def test_a_context_without_room_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"rollout.max_tokens=510 after a prompt of 4 tokens"):
        Session(read(STAGES, ["rollout.max_tokens=510"]), print)


def test_an_env_without_demonstrations_needs_a_file(tmp_path: Path) -> None:
    env = f"{Path(__file__).with_name('plays.py')}:Digits"
    recipe = {**STAGES, "env": {"type": env}}
    with pytest.raises(UserError, match=r"writes no demonstrations: give stage.sft.source.path"):
        Session(read(recipe), print)
    path = tmp_path / "shown.jsonl"
    path.write_text('{"prompt": "a:", "reply": "7"}\n')
    made = Session(read(recipe, [f'stage.sft.source.path="{path}"']), print)
    (group,) = asyncio.run(made.source(made.stages[0]).groups(1, 0, lambda group: True))
    assert group.trajectories[0].text == "7"


def test_device_and_memory() -> None:
    assert device_of("cpu") == "cpu"
    assert device_of("auto") in ("cpu", "cuda", "mps")
    assert fitting_tokens("cpu", 2**40) == 256
    assert fitting_tokens("cpu", 1) == 65536
    assert fitting_tokens("cpu", 2**20) <= 1024


def test_a_limit_on_the_process_makes_micro_batches_smaller(monkeypatch) -> None:
    roomy = fitting_tokens("cpu", 2**10)
    limit = machine.used()[0] + 16 * 10_000 * 2**10
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert 9_000 < fitting_tokens("cpu", 2**10) < 11_000 < roomy


def test_an_env_with_nothing_to_train_on_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "1 and 1?", "answer": "#### 2"}\n')
    env = {"type": "math", "test": str(path)}
    given = {"model": "ladder:0.1m", "env": env, "algorithm": {"type": "grpo"}}
    with pytest.raises(UserError, match="no problems in its train split: give it more"):
        Session(read(given), print)
