"""Distillation from a larger policy: the loss, its gradient, teachers that are refused, a run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import small_policies
from records import group
from test_train import DIGITS, silent, trained
from upslope.advantages import Overlong
from upslope.algorithms.constrained import Constrained
from upslope.algorithms.distill import Distill
from upslope.algorithms.gigpo import GiGPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.remax import ReMax
from upslope.algorithms.rloo import RLOO
from upslope.batch import Batch, Outputs
from upslope.constraints import Constraint
from upslope.exploration import Explore
from upslope.losses import KL, Entropy
from upslope.models.load import load, save
from upslope.recipe import read
from upslope.runs import Run
from upslope.scorers import teacher_of
from upslope.session import Session
from upslope.types import UserError


def told(rewards: list[float]) -> Batch:
    """Replies of 2 and 1 tokens, which the engine gave log-probabilities of -1."""
    batch = Batch.of([group(rewards, [[4, 5], [6]])])
    teacher = torch.zeros(batch.tokens.shape)
    teacher[batch.trained] = torch.tensor([-1.5, -0.25, -2.0])
    return replace(batch, teacher_logprobs=teacher)


def test_the_advantages_by_hand() -> None:
    """Log-ratios of -0.5, 0.75 and -1, less their mean of -0.25."""
    batch = told([1.0, 0.0])
    alone = Distill("t", strength=2.0)
    got = alone.advantages(batch)
    assert got[batch.trained].tolist() == pytest.approx([-0.5, 2.0, -1.5])
    assert (got[~batch.trained] == 0).all()
    assert alone.report(batch) == {"kl/teacher": pytest.approx(0.25)}
    filled = replace(batch, old_logprobs=batch.engine_logprobs - batch.teacher_logprobs)
    later = alone.advantages(filled)[batch.trained]  # log-ratios of -2, 0.5 and -3
    assert later.tolist() == pytest.approx([-1.0, 4.0, -3.0])
    with pytest.raises(ValueError, match="needs teacher_logprobs"):
        alone.advantages(replace(batch, teacher_logprobs=None))


def test_with_reward_both_add_up() -> None:
    both, plain = Distill("t", strength=0.5, reward=0.25, of=RLOO()), RLOO()
    batch = told([1.0, 0.0])
    want = Distill("t", strength=0.5).advantages(batch) + 0.25 * plain.advantages(batch)
    torch.testing.assert_close(both.advantages(batch), want)


def test_every_group_is_kept_and_counts() -> None:
    for how in ("drop", "resample", "count"):
        alone = Distill("t", of=GRPO(zero_variance=how))
        batch = told([1.0, 1.0])
        batch = replace(batch, advantages=alone.advantages(batch))
        assert alone.keep(group([1.0, 1.0]))
        assert (alone.weights(batch)[batch.trained] > 0).all()


def test_its_expected_gradient_is_that_of_the_reverse_kl() -> None:
    """Every token of a tabular softmax, by its chance; and by finite difference."""
    draw = torch.Generator().manual_seed(0)
    table, teacher = (torch.randn(7, generator=draw, dtype=torch.float64) for _ in "ab")
    table.requires_grad_()
    none = torch.zeros(7, 1, dtype=torch.float64)
    now, theirs = (torch.cat([none] * 3 + [t.log_softmax(0)[:, None]], 1) for t in (table, teacher))
    batch = Batch.of([group([0.0] * 7, [[4]] * 7)])
    batch = replace(batch, old_logprobs=now.detach(), teacher_logprobs=theirs)
    batch = replace(batch, advantages=Distill("t").advantages(batch))
    loss, _ = Distill("t").loss(Outputs(now), batch)
    (got,) = torch.autograd.grad((table.detach().softmax(0) * loss[:, 3]).sum(), table)

    def distance(of: torch.Tensor) -> torch.Tensor:
        mine = of.log_softmax(0)
        return (mine.exp() * (mine - teacher.log_softmax(0))).sum()

    (want,) = torch.autograd.grad(distance(table), table)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-8)
    with torch.no_grad():
        steps = 1e-6 * torch.eye(7, dtype=torch.float64)
        apart = torch.stack([distance(table + h) - distance(table - h) for h in steps]) / 2e-6
    torch.testing.assert_close(got, apart, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"reward": -1.0}])
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="strength must be above 0"):
        Distill("t", **settings)


@pytest.mark.parametrize(
    ("of", "key"),
    [
        (GRPO(kl=KL(0.1, "k1", "reward")), 'of.kl.place="reward"'),
        (GRPO(overlong=Overlong(limit=9, cache=2)), "of.overlong.limit"),
        (GRPO(explore=Explore(hold="clip_cov")), 'of.explore.hold="clip_cov"'),
        (RLOO(explore=Explore(hold="low_entropy")), 'of.explore.hold="low_entropy"'),
        (Constrained({"length": Constraint(9.0)}), "of.type (Constrained)"),
        (GiGPO(), "of.type (GiGPO)"),
        (ReMax(), "of.type (ReMax)"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_only_the_rewards_advantages_would_hear_of_is_refused_without(of, key) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{key} acts through the reward's advantages")):
        Distill("t", of=of)
    assert Distill("t", reward=0.5, of=of).of == of


def test_what_acts_in_the_loss_is_heard_without_a_reward() -> None:
    for of in (GRPO(kl=KL(0.1)), GRPO(explore=Explore(hold="kl_cov")), RLOO(entropy=Entropy(0.1))):
        assert Distill("t", of=of).of == of


def test_what_is_no_teacher_is_refused_in_a_sentence(tmp_path: Path) -> None:
    student = load("ladder:0.1m")
    other = small_policies.policy("llama")
    save(other, tmp_path / "other")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.toml").write_text('model = "ladder:0.1m"\n')
    said = {}
    for name in ("ladder:1m", str(tmp_path / "other"), str(tmp_path / "unfinished"), "nobody"):
        with pytest.raises(UserError) as caught:
            teacher_of(student, Distill(name), silent)
        said[Path(name).name] = str(caught.value)
    assert "was never trained and has nothing to teach" in said["ladder:1m"]
    assert "has another tokenizer than ladder:0.1m" in said["other"]
    assert "has no final model yet" in said["unfinished"]
    assert "no model is called 'nobody'" in said["nobody"]
    assert teacher_of(student, GRPO(), silent) is None
    recorded = {"env": {"type": "arithmetic"}, "source": {"type": "recorded"}}
    with pytest.raises(UserError, match="recorded replies are others': use rollouts"):
        Session(read({**taught("x"), **recorded}), silent)


def taught(teacher: str) -> dict[str, Any]:
    """Digits, learned from a teacher alone: what replies earn is not looked at."""
    return {
        **DIGITS,
        "name": "taught",
        "seed": 3,
        "algorithm": {"type": "distill", "teacher": teacher, "of": {"type": "reinforce"}},
        "check": {"problems": 1},
    }


def test_a_student_becomes_its_teacher(tmp_path: Path) -> None:
    teacher: Run = trained(tmp_path, DIGITS, "stop.steps=20")
    student = trained(tmp_path, taught(str(teacher.path)), "stop.steps=20", "rollout.group=8")
    first, last = student.metrics()[0], student.metrics()[-1]
    assert first["reward/mean"] < 0.3
    assert last["reward/mean"] > teacher.metrics()[-1]["reward/mean"] - 0.1
    assert last["kl/teacher"] < 0.2 * first["kl/teacher"]
    tokens = first["ledger/tokens/reference"]
    assert tokens >= 4 * 8 * 3  # its passes are in the ledger, and grow with the steps
    assert last["ledger/tokens/reference"] == pytest.approx(20 * tokens, rel=0.2)
    assert 0 < first["ledger/flops/reference"] < first["ledger/flops/update"]
