"""Loss, gradient and advantages against TRL 1.16's own trainers, on the same model and tokens.

TRL samples the completions, calls the reward function and computes advantages and loss in its own
code; Upslope gets TRL's tokens, and its learner's packed forward stands against TRL's padded one.

Which of TRL's ``loss_type`` is which aggregation, for an update of one micro-batch:

| TRL | divides the masked sum by | Upslope |
|---|---|---|
| grpo | each completion's tokens, then completions | GRPO, "sequence" |
| bnpo | the tokens of the micro-batch | GRPO, "token" |
| dapo | the tokens of all micro-batches and processes | GRPO, "token" |
| dr_grpo | completions * max_completion_length | DrGRPO, length = max_completion_length |
| cispo | as dapo | CISPO, "token" |
| grpo, importance_sampling_level = "sequence" | as grpo | GSPO |
| bnpo, one prompt at a time, averaged | each prompt's tokens, then prompts | GRPO, "prompt" |

Where the two differ on purpose:

- TRL divides a group's rewards by std + 1e-4, Upslope by std + 1e-6; both take n - 1.
- ``scale_rewards="batch"`` divides by the std of raw rewards, CISPO's ``scale = "batch"`` by that
  of the centred ones (ScaleRL), so these are not compared.
- TRL leaves the tokens of a completion without a reward in its denominators, Upslope takes them
  out; advantages agree.
- bnpo's and grpo's means are per micro-batch in TRL, so that they change with the split;
  Upslope's weights belong to the update.
- TRL multiplies k3 by the ratio, with its gradient (``use_bias_correction_kl``, its default), which
  is ``kl.corrected = true`` here and off by default.
- TRL's RLOO clips the ratio of whole sequences and reports -A * ratio; Upslope weighs tokens and
  reports -A log p. The gradients are equal where the ratio is 1, with "constant" and length 1.
- Upslope clamps log-ratios to +-20.
- KTO's baseline: TRL takes other problems' answers, Upslope the batch's own; the rest is compared
  at TRL's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import small_policies
from upslope import advantages, pairwise
from upslope.algorithms.cispo import CISPO
from upslope.algorithms.dpo import DPO
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.ipo import IPO
from upslope.algorithms.kto import KTO
from upslope.algorithms.rloo import RLOO
from upslope.algorithms.sft import SFT
from upslope.batch import Algorithm, Batch
from upslope.learner import Learner
from upslope.losses import KL
from upslope.models.policy import Policy
from upslope.settings import Learner as LearnerSettings
from upslope.types import Group, Problem, Reward, Segment, Trajectory, Turn

pytest.importorskip("trl", reason="TRL is not installed: make test-parity")
datasets = pytest.importorskip("datasets", reason="datasets is not installed: make test-parity")

# TRL, its libraries and the trainer of transformers warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = ("ab c", "gh. de f")
SIZE, LENGTH, TEMPERATURE = 4, 7, 0.8
REWARDS = (1.0, 0.0, 0.25, 1.0, -0.5, 2.0, 0.0, 0.0)
KL_COEFFICIENT = 0.05
CLOSE = 1e-5
EPS = torch.finfo(torch.float32).eps
Row = tuple[Sequence[int], Sequence[int]]  # a prompt's tokens, a completion's


@dataclass(frozen=True)
class Side:
    """One side's loss, and its gradient as one vector in the order of parameter names."""

    loss: float
    gradient: Tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starting model, which stays the reference, as TRL loads it."""
    place = tmp_path_factory.mktemp("trl")
    base = small_policies.policy("llama")
    base.model.save_pretrained(place / "model")
    base.tokenizer.save_pretrained(place / "model")
    return place


@pytest.fixture(scope="module")
def moved() -> Policy:
    """The policy under training: no longer the reference."""
    policy = small_policies.policy("llama")
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    return policy


def settings(folder: Path) -> dict[str, Any]:
    """What every TRL trainer is given here."""
    return {
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": len(PROMPTS) * SIZE,
    }


def online(
    folder: Path,
    moved: Policy,
    kind: str = "GRPO",
    rewards: Sequence[float | None] = REWARDS,
    **given: Any,
) -> Any:
    """TRL's trainer of a kind, holding the moved weights, with a given reward for each member."""
    import trl

    trainer_of = {"GRPO": trl.GRPOTrainer, "RLOO": trl.RLOOTrainer}[kind]
    config_of = {"GRPO": trl.GRPOConfig, "RLOO": trl.RLOOConfig}[kind]
    config = config_of(
        **settings(folder),
        num_generations=SIZE,
        max_completion_length=LENGTH,
        temperature=TEMPERATURE,
        model_init_kwargs={"dtype": "float32"},
        **given,
    )

    def reward(completions: Sequence[str], **_: Any) -> list[float | None]:
        return list(rewards)

    trainer = trainer_of(
        model=str(folder / "model"),
        args=config,
        reward_funcs=reward,
        train_dataset=datasets.Dataset.from_list([{"prompt": p} for p in PROMPTS]),
    )
    trainer.model.load_state_dict(moved.model.state_dict())
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # as its training loop sets it
    return trainer


def sampled(trainer: Any) -> dict[str, Tensor]:
    """What TRL samples, grades and scores; the draws are the same every time."""
    torch.manual_seed(0)
    inputs = [{"prompt": p} for p in PROMPTS for _ in range(SIZE)]
    columns: dict[str, Tensor] = trainer._generate_and_score_completions(inputs)
    lengths = columns["completion_mask"].sum(1)
    assert lengths.min() < lengths.max(), "completions of one length would prove little"
    return columns


def rows_of(columns: Mapping[str, Tensor]) -> list[Row]:
    """TRL's padded columns as token lists."""
    masks = columns["prompt_mask"].bool(), columns["completion_mask"].bool()
    both = zip(columns["prompt_ids"], masks[0], columns["completion_ids"], masks[1], strict=True)
    return [(prompt[p].tolist(), said[s].tolist()) for prompt, p, said, s in both]


def trajectory(problem: Problem, row: Row, member: int, reward: float | None) -> Trajectory:
    """A played problem with these tokens; a reward of None is one that grading failed to give."""
    prompt, said = row
    trained = np.array([False] * len(prompt) + [True] * len(said))
    segment = Segment(
        np.array([*prompt, *said]), trained, np.zeros(len(trained)), np.zeros(len(trained))
    )
    turn = Turn(0, len(prompt), len(trained), "stop", TEMPERATURE)
    earned = Reward(0.0, valid=False) if reward is None else Reward(reward)
    return Trajectory(problem, 0, member, (segment,), (turn,), (), earned)


def batch_of(rows: Sequence[Row], rewards: Sequence[float | None] = REWARDS) -> Batch:
    """The rows as Upslope's groups, ``SIZE`` to a problem."""
    groups = []
    for start in range(0, len(rows), SIZE):
        problem = Problem(str(start), prompt="as TRL tokenised it")
        members = enumerate(zip(rows[start:], rewards[start:], strict=True))
        played = [trajectory(problem, row, i, reward) for i, (row, reward) in members if i < SIZE]
        groups.append(Group(problem, tuple(played)))
    return Batch.of(groups)


def placed(batch: Batch, values: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
    """TRL's [row, completion token] values at Upslope's trained tokens."""
    out = torch.zeros(batch.tokens.shape)
    out[batch.trained] = values[columns["completion_mask"].bool()]
    return out


def off_policy(batch: Batch, columns: dict[str, Tensor], trainer: Any) -> Batch:
    """Give both sides old log-probabilities so far from the live ones that both clips act."""
    ids = torch.cat([columns["prompt_ids"], columns["completion_ids"]], 1)
    mask = torch.cat([columns["prompt_mask"], columns["completion_mask"]], 1)
    width = columns["completion_ids"].shape[1]
    with torch.no_grad():
        live, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)
    noise = 0.4 * torch.randn(live.shape, generator=torch.Generator().manual_seed(2))
    ratios = noise.neg().exp()[columns["completion_mask"].bool()]
    assert ratios.min() < 0.8
    assert ratios.max() > 1.5
    columns["old_per_token_logps"] = live + noise
    return replace(batch, old_logprobs=placed(batch, live + noise, columns))


def theirs(trainer: Any, columns: Mapping[str, Tensor], loss: Callable[..., Any]) -> Side:
    """TRL's side: ``loss`` of its own model, and the gradient."""
    trainer.model.zero_grad()
    value = loss(trainer.model, dict(columns))
    value.backward()
    return Side(float(value.detach()), flat(trainer.model))


def ours(policy: Policy, batch: Batch, algorithm: Algorithm) -> Side:
    """Upslope's side, in micro-batches of a group or less."""
    policy.model.zero_grad()
    tally = learner_of(policy).accumulate(batch, algorithm, budget=40)
    return Side(tally.total, flat(policy.model))


def learner_of(policy: Policy) -> Learner:
    """A learner whose reference is the starting model."""
    start = small_policies.policy("llama")
    return Learner(policy, LearnerSettings(), lambda phase, flops, tokens: None, start)


def flat(model: torch.nn.Module) -> Tensor:
    named = sorted((n, p.grad) for n, p in model.named_parameters() if p.grad is not None)
    return torch.cat([gradient.flatten() for _, gradient in named])


def assert_equal(left: Side, right: Side, *, loss: bool = True) -> None:
    """Relative to the gradient's norm and to the loss, a mean of numbers of order 1 in FP32.

    Advantages of both signs cancel in it: what is left, 0.01 or so, has the rounding of 1, twice.
    """
    assert right.gradient.norm() > 1e-2
    assert (left.gradient - right.gradient).norm() <= CLOSE * right.gradient.norm()
    if loss:
        assert left.loss == pytest.approx(right.loss, rel=CLOSE, abs=4 * EPS)


GRPO_CASES = {
    "sequence": (GRPO(), {"loss_type": "grpo"}),
    "clip-higher": (GRPO(clip_high=0.28), {"loss_type": "grpo", "epsilon_high": 0.28}),
    "token-bnpo": (GRPO(aggregation="token"), {"loss_type": "bnpo"}),
    "token-dapo": (GRPO(aggregation="token"), {"loss_type": "dapo"}),
    "dr-grpo": (DrGRPO(length=LENGTH), {"loss_type": "dr_grpo"}),
    "cispo": (
        CISPO(weight_max=1.5, aggregation="token"),
        {"loss_type": "cispo", "epsilon_high": 1.5},
    ),
    "gspo": (
        GSPO(clip_low=0.05, clip_high=0.1),
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 0.05,
            "epsilon_high": 0.1,
        },
    ),
}


@pytest.mark.parametrize("fresh", [True, False], ids=["ratio-1", "off-policy"])
@pytest.mark.parametrize("case", GRPO_CASES)
def test_loss_and_gradient_equal_trl(folder: Path, moved: Policy, case: str, fresh: bool) -> None:
    algorithm, given = GRPO_CASES[case]
    scale = "none" if isinstance(algorithm, DrGRPO) else "group"
    trainer = online(folder, moved, scale_rewards=scale, **given)
    columns = sampled(trainer)
    batch = batch_of(rows_of(columns))
    batch = replace(batch, advantages=batch.spread(columns["advantages"]))
    if not fresh:
        batch = off_policy(batch, columns, trainer)
    assert_equal(ours(moved, batch, algorithm), theirs(trainer, columns, trainer._compute_loss))


def test_prompt_mean_is_bnpo_of_each_prompt_averaged(folder: Path, moved: Policy) -> None:
    trainer = online(folder, moved, loss_type="bnpo")
    columns = sampled(trainer)
    batch = batch_of(rows_of(columns))
    batch = replace(batch, advantages=batch.spread(columns["advantages"]))
    batch = off_policy(batch, columns, trainer)

    def averaged(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        rows = [slice(i, i + SIZE) for i in range(0, len(PROMPTS) * SIZE, SIZE)]
        parts = [{k: v[r] for k, v in inputs.items() if v.ndim} for r in rows]
        return torch.stack([trainer._compute_loss(model, part) for part in parts]).mean()

    expected = theirs(trainer, columns, averaged)
    assert_equal(ours(moved, batch, GRPO(aggregation="prompt")), expected)


@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
@pytest.mark.parametrize("fresh", [True, False], ids=["ratio-1", "off-policy"])
def test_k3_in_the_loss_equals_trls_beta(
    folder: Path, moved: Policy, fresh: bool, corrected: bool
) -> None:
    trainer = online(
        folder, moved, loss_type="grpo", beta=KL_COEFFICIENT, use_bias_correction_kl=corrected
    )
    columns = sampled(trainer)
    batch = batch_of(rows_of(columns))
    batch = learner_of(moved).fill(batch, ["ref_logprobs"])
    reference = placed(batch, columns["ref_per_token_logps"], columns)
    torch.testing.assert_close(batch.ref_logprobs, reference, rtol=CLOSE, atol=CLOSE)
    batch = replace(batch, advantages=batch.spread(columns["advantages"]))
    if not fresh:
        batch = off_policy(batch, columns, trainer)
    algorithm = GRPO(kl=KL(KL_COEFFICIENT, "k3", "loss", corrected))
    assert_equal(ours(moved, batch, algorithm), theirs(trainer, columns, trainer._compute_loss))


@pytest.mark.parametrize("beta", [0.0, KL_COEFFICIENT])
def test_rloo_from_rewards_to_gradient(folder: Path, moved: Policy, beta: float) -> None:
    trainer = online(folder, moved, "RLOO", beta=beta)
    columns = sampled(trainer)
    batch = batch_of(rows_of(columns))
    algorithm = RLOO(aggregation="constant", length=1, kl=KL(beta, "k1", "reward"))
    batch = learner_of(moved).fill(batch, sorted(algorithm.needs))
    batch = replace(batch, advantages=algorithm.advantages(batch))
    expected = batch.spread(columns["advantages"])
    torch.testing.assert_close(batch.advantages, expected, rtol=CLOSE, atol=CLOSE)
    batch = replace(batch, old_logprobs=None)
    left = ours(moved, batch, algorithm)
    assert_equal(left, theirs(trainer, columns, trainer._compute_loss), loss=False)


REWARD_CASES = {
    "plain": REWARDS,
    "one-without-a-reward": (1.0, None, 0.25, 1.0, -0.5, 2.0, 0.0, 0.0),
    "one-left-of-a-group": (None, None, None, 1.0, -0.5, 2.0, 0.0, 0.0),
    "equal-in-a-group": (0.1, 0.1, 0.1, 0.1, -0.5, 2.0, 0.0, 0.0),
}
ADVANTAGES: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str, dict[str, Any]]] = {
    "standardised": (
        lambda *outcomes: advantages.standardised(*outcomes, eps=1e-4),
        "GRPO",
        {"scale_rewards": "group"},
    ),
    "centred": (advantages.centred, "GRPO", {"scale_rewards": "none"}),
    "leave-one-out": (advantages.leave_one_out, "RLOO", {"beta": 0.0}),
}


@pytest.mark.parametrize("case", REWARD_CASES)
@pytest.mark.parametrize("kind", ADVANTAGES)
def test_advantages_equal_trl(folder: Path, moved: Policy, kind: str, case: str) -> None:
    function, trainer_kind, given = ADVANTAGES[kind]
    rewards = REWARD_CASES[case]
    columns = sampled(online(folder, moved, trainer_kind, rewards, **given))
    known = torch.tensor([0.0 if r is None else r for r in rewards])
    group = torch.arange(len(rewards)) // SIZE
    valid = torch.tensor([r is not None for r in rewards])
    found = function(known, group, valid)
    # TRL's mean of equal rewards differs from them by a rounding, which std + 1e-4 magnifies.
    torch.testing.assert_close(found, columns["advantages"], rtol=CLOSE, atol=1e-4)
    torch.testing.assert_close(found.abs() > 1e-3, columns["advantages"].abs() > 1e-3)


def test_floors_under_the_std_differ_by_their_ratio() -> None:
    rewards, ones = torch.tensor(REWARDS[:SIZE]), torch.ones(SIZE, dtype=torch.bool)
    group = torch.zeros(SIZE, dtype=torch.int64)
    std = float(rewards.std())
    here = advantages.standardised(rewards, group, ones)
    there = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    torch.testing.assert_close(here / there, torch.full((SIZE,), (std + 1e-4) / (std + 1e-6)))


def test_sft_equals_trl(folder: Path, moved: Policy) -> None:
    import trl

    pairs = [("ab c", "d ef"), ("ab c", "gh"), ("gh. de", "a b c d."), ("h", "abc")]
    data = [{"prompt": prompt, "completion": said} for prompt, said in pairs]
    trainer = trl.SFTTrainer(
        model=str(folder / "model"),
        args=trl.SFTConfig(**settings(folder), model_init_kwargs={"dtype": "float32"}),
        train_dataset=datasets.Dataset.from_list(data),
    )
    trainer.model.load_state_dict(moved.model.state_dict())
    columns = trainer.data_collator(list(trainer.train_dataset))
    rows = []
    for ids, labels, real in zip(
        columns["input_ids"], columns["labels"], columns["attention_mask"].bool(), strict=True
    ):
        cut = int((labels == -100)[real].sum())
        rows.append((ids[real][:cut].tolist(), ids[real][cut:].tolist()))
    batch = batch_of(rows, [1.0] * len(rows))
    batch = replace(batch, temperature=torch.ones_like(batch.temperature))
    assert_equal(ours(moved, batch, SFT()), theirs(trainer, columns, trainer.compute_loss))


PAIRS = [("ab c", "d ef", "gh"), ("gh. de", "a b c d.", "ab"), ("h", "abc", "c d e f")]
DPO_CASES = {
    "sigmoid": (DPO(beta=0.3), {"loss_type": ["sigmoid"], "beta": 0.3}),
    "smoothed": (
        DPO(beta=0.3, form="robust", smoothing=0.2),
        {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2},
    ),
    "hinge": (DPO(beta=0.3, form="hinge"), {"loss_type": ["hinge"], "beta": 0.3}),
    "mean": (DPO(beta=2.0, score="mean"), {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
    "ipo": (IPO(beta=0.5), {"loss_type": ["ipo"], "beta": 0.5}),
}


def told(columns: Mapping[str, Tensor], rewards: Sequence[float], size: int) -> Batch:
    """TRL's rows, of which ``size`` apart belong to one problem, at temperature 1."""
    masks = columns["attention_mask"].bool(), columns["completion_mask"].bool()
    rows: list[Row] = []
    for ids, real, said in zip(columns["input_ids"], *masks, strict=True):
        rows.append((ids[real & ~said].tolist(), ids[said].tolist()))
    groups = []
    problems = len(rows) // size
    for at in range(problems):
        problem = Problem(str(at), prompt="as TRL tokenised it")
        members = range(at, len(rows), problems)
        played = [trajectory(problem, rows[m], i, rewards[m]) for i, m in enumerate(members)]
        groups.append(Group(problem, tuple(played)))
    batch = Batch.of(groups)
    return replace(batch, temperature=torch.ones_like(batch.temperature))


@pytest.mark.parametrize("case", DPO_CASES)
def test_dpo_and_ipo_equal_trl(folder: Path, moved: Policy, case: str) -> None:
    import trl

    algorithm, given = DPO_CASES[case]
    names = ("prompt", "chosen", "rejected")
    trainer = trl.DPOTrainer(
        model=str(folder / "model"),
        args=trl.DPOConfig(**settings(folder), **given, model_init_kwargs={"dtype": "float32"}),
        train_dataset=datasets.Dataset.from_list(
            [dict(zip(names, pair, strict=True)) for pair in PAIRS]
        ),
    )
    trainer.model.load_state_dict(moved.model.state_dict())
    trainer.model.train()
    columns = trainer.data_collator(list(trainer.train_dataset))
    batch = told(columns, [1.0] * len(PAIRS) + [0.0] * len(PAIRS), 2)
    batch = learner_of(moved).fill(batch, ["ref_logprobs"])
    batch = replace(batch, advantages=algorithm.advantages(batch))
    expected = theirs(trainer, columns, lambda model, inputs: trainer.compute_loss(model, inputs))
    assert_equal(ours(moved, batch, algorithm), expected)


def test_kto_equals_trl_at_its_own_baseline(folder: Path, moved: Policy) -> None:
    import trl

    algorithm = KTO(beta=0.3, good=1.0, bad=1.5)
    labels = [True, False, False, True]
    said = [("ab c", "d ef"), ("gh. de", "a b c d."), ("h", "abc"), ("ab c", "gh")]
    rows = zip(said, labels, strict=True)
    data = [{"prompt": p, "completion": c, "label": label} for (p, c), label in rows]
    given = {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.5}
    trainer = trl.KTOTrainer(
        model=str(folder / "model"),
        args=trl.KTOConfig(
            **settings(folder),
            **given,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=datasets.Dataset.from_list(data),
    )
    trainer.model.load_state_dict(moved.model.state_dict())
    trainer.model.train()
    columns = trainer.data_collator(list(trainer.train_dataset))
    expected = theirs(trainer, columns, lambda model, inputs: trainer.compute_loss(model, inputs))
    z = trainer._metrics["train"]["kl"][-1]
    batch = told(columns, [float(label) for label in columns["label"]], 1)
    batch = learner_of(moved).fill(batch, sorted(algorithm.needs))
    batch = replace(batch, advantages=torch.where(batch.trained, z, 0.0))
    assert_equal(ours(moved, batch, algorithm), expected)


def test_simpo_and_orpo_equal_trls_functions() -> None:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    draw = torch.Generator().manual_seed(0)
    chosen, rejected = (-2 * torch.rand(8, generator=draw) for _ in range(2))
    machine = SimpleNamespace(device="cpu")
    simpo = SimpleNamespace(loss_type="simpo", beta=2.0, simpo_gamma=0.5, label_smoothing=0.0)
    simpo.alpha, simpo.accelerator = 0.0, machine
    expected, _, _ = CPOTrainer.cpo_loss(simpo, chosen, rejected)
    torch.testing.assert_close(pairwise.simpo(chosen, rejected, 2.0, 0.5), expected)
    orpo = SimpleNamespace(beta=0.7, accelerator=machine)
    odds, *_ = ORPOTrainer.odds_ratio_loss(orpo, chosen, rejected)
    found = pairwise.orpo(chosen, rejected, 0.7) + chosen
    torch.testing.assert_close(found, -odds, rtol=1e-5, atol=1e-6)
