"""Presets: what they write into a recipe, who wins, that they train, and which are one equation."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners import a_learner, gradient, policy, prepared
from records import group
from upslope import presets
from upslope.algorithms.cispo import CISPO
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.rloo import RLOO
from upslope.batch import Algorithm, Batch
from upslope.batteries.rows import Table, table
from upslope.batteries.rows import gradient as table_gradient
from upslope.envs.episodes import single_turn
from upslope.launch import train_recipe
from upslope.learner import Learner
from upslope.losses import KL
from upslope.recipe import dump, read
from upslope.stages import Built, built
from upslope.types import Problem, Reward, Split, Trajectory, UserError

OLDER = ["dapo", "dr_grpo", "gspo", "grpo", "magistral", "minimax", "rloo", "scalerl"]
# Their twins are in test_policy_gradients.py.
NAMES = [*OLDER, "pass_at_k", "reinforce_pp", "reinforce_pp_baseline", "remax"]
NAMES += ["ppo", "vapo", "vc_ppo"]
# What a preset leaves to the user: lengths, and what belongs to a bonus that none of them has.
LEFT = {"length", "overlong.limit", "overlong.cache", "entropy.step", "kl.rate", "critic.floor"}
LEFT |= {f"explore.{name}" for name in ("share", "low", "high", "coefficient")}
BASE: dict[str, Any] = {"model": "ladder:0.1m", "env": {"type": "arithmetic"}}


def one(given: dict[str, Any], *overrides: str) -> Built:
    """The only stage of a recipe."""
    (stage,) = built(read({**BASE, **given}, overrides))
    return stage


def leaves(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of an algorithm's settings."""
    for field in dataclasses.fields(value):
        inner = vars(value)[field.name]
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_names() -> None:
    assert presets.names() == sorted(NAMES)
    with pytest.raises(UserError, match="unknown preset dappo: did you mean dapo"):
        presets.text("dappo")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_its_source_and_its_algorithm_in_full(name: str) -> None:
    """In full, so that nothing of a recipe's base is left in a stage that chooses a preset."""
    first, *rest = presets.about(name)
    assert "arXiv:" in first
    for what in ("From the paper", "Left to you", "Differs"):
        assert any(line.startswith(what) for line in rest)
    table = tomllib.loads(presets.text(name))
    algorithm = one({"preset": name}).algorithm
    assert {*flat(table["algorithm"])} == {"type", *leaves(algorithm)} - LEFT
    assert {"updates", "epochs"} <= table["learner"].keys()
    assert "max_staleness" in table["rollout"]


@pytest.mark.parametrize("name", NAMES)
def test_the_resolved_recipe_has_it_written_out(name: str, tmp_path: Path) -> None:
    stage = {"name": "rl", "preset": name}
    for given in ({**BASE, "preset": name}, {**BASE, "stage": [stage]}):
        recipe = read(given)
        path = tmp_path / f"{recipe.name}.toml"
        path.write_text(dump(recipe), encoding="utf-8")
        assert "preset" not in path.read_text(encoding="utf-8")
        assert read(path) == recipe
        (ours,), (theirs,) = built(recipe), built(read(path))
        assert ours.algorithm == theirs.algorithm == one({"preset": name}).algorithm
        assert ours.stage.learner == theirs.stage.learner == one({"preset": name}).stage.learner


def test_what_the_table_sets_itself_wins() -> None:
    stage = one({"preset": "dapo", "algorithm": {"clip_high": 0.3}, "learner": {"updates": 2}})
    assert isinstance(stage.algorithm, GRPO)
    assert (stage.algorithm.clip_high, stage.algorithm.zero_variance) == (0.3, "resample")
    assert stage.stage.learner.updates == 2
    assert one({"preset": "dapo"}, "algorithm.clip_high=0.4").algorithm.clip_high == 0.4
    own = {"name": "rl", "preset": "scalerl", "learner": {"eps": 1e-6}}
    stage = one({"stage": [own]}, "stage.rl.rollout.max_staleness=2")
    settings = stage.stage
    assert (settings.learner.eps, settings.learner.warmup) == (1e-6, 100)
    assert (settings.rollout.max_staleness, settings.rollout.correction) == (2, "bypass")


def test_an_algorithm_of_another_type_replaces_the_presets_with_its_settings() -> None:
    stage = one({"preset": "scalerl", "algorithm": {"type": "grpo"}})
    assert stage.algorithm == GRPO()
    assert stage.stage.learner.eps == 1e-15


def test_a_stages_preset_goes_over_the_base_and_under_the_stages_own() -> None:
    base = {"algorithm": {"type": "grpo", "kl": {"coefficient": 0.1}}, "learner": {"lr": 1e-3}}
    stage = one({**base, "stage": [{"name": "rl", "preset": "dapo"}]})
    assert stage.algorithm == one({"preset": "dapo"}).algorithm  # no KL is left
    assert (stage.stage.learner.lr, stage.stage.learner.updates) == (1e-3, 8)


def test_a_preset_on_the_command_line() -> None:
    given = {"stage": [{"name": "rl", "preset": "grpo", "learner": {"lr": 0.1}}]}
    stage = one(given, "stage.rl.preset=gspo")
    assert isinstance(stage.algorithm, GSPO)
    assert (stage.stage.learner.lr, stage.stage.learner.updates) == (0.1, 4)
    assert isinstance(one({"algorithm": {}}, "preset=minimax").algorithm, CISPO)
    sentence = 'preset is set by the stage rl itself: write stage.rl.preset="gspo"'
    with pytest.raises(UserError, match=sentence):
        one(given, "preset=gspo")
    with pytest.raises(UserError, match="unknown preset x"):
        one(given, "stage.rl.preset=x")
    with pytest.raises(UserError, match=r"stage\.rl\.preset must be text"):
        one(given, "stage.rl.preset=3")
    with pytest.raises(UserError, match=r"cannot be split into learner\.updates=8"):
        one({"preset": "dapo", "rollout": {"problems": 6}})


def test_the_ladder_recipe_changes_its_algorithm_by_one_word() -> None:
    path = Path(__file__).parent.parent / "recipes" / "ladder_addition.toml"
    plain = built(read(path))[1]
    assert plain.algorithm == GRPO()
    assert plain.stage.source.type == "rollouts"
    for name in NAMES:
        sft, rl = built(read(path, [f"stage.rl.preset={name}"]))
        assert sft.stage.learner.updates == 1
        assert rl.stage.rollout.problems == plain.stage.rollout.problems
        assert rl.algorithm == one({"preset": name}).algorithm


# Training.


@dataclass(frozen=True)
class Figures:
    """A reply ends at a letter and is right where it holds a digit, as many at random do."""

    play = single_turn

    def problems(self, split: Split) -> Sequence[Problem]:
        asked = {"train": "abcdefghijklmnop", "validation": "qr", "test": "st"}[split]
        ends = tuple("abcdefghijklmnopqrstuvwxyz")
        return [Problem(c, prompt=f"{c}:", solution="7", stop=ends) for c in asked]

    async def rewards(
        self, problem: Problem, trajectories: Sequence[Trajectory]
    ) -> Sequence[Reward]:
        return [Reward(float(any(c.isdigit() for c in t.text))) for t in trajectories]


@pytest.mark.parametrize("name", NAMES)
def test_each_preset_takes_a_step(name: str, tmp_path: Path) -> None:
    recipe = read(
        {
            "model": "ladder:0.1m",
            "preset": name,
            "runs": str(tmp_path),
            "env": {"type": f"{__file__}:Figures"},
            "rollout": {"problems": 8, "group": 8, "max_tokens": 6},
            "learner": {"lr": 1e-3},
            "stop": {"steps": 2},
            "evaluation": {"problems": 2},
            "checkpoint": {"every": 0},
            "check": {"problems": 1},
            "machine": {"threads": 1},
        }
    )
    rows = train_recipe(recipe, lambda line: None).metrics()
    assert len(rows) == 2
    for row in rows:
        # A policy that waits for its critic has no gradient at first.
        assert (row["update/grad_norm"] or row["critic/grad_norm"]) > 0
        assert row["update/skipped"] == 0
        assert row["groups/mixed_share"] == 1 or name != "dapo"
    assert rows[0]["ratio/first"] == 1 or name in ("magistral", "scalerl")


# Their equations, one token at a time, on groups with all that breaks means.


CLIP = {"gspo": (3e-4, 4e-4), "dapo": (0.2, 0.28), "magistral": (0.2, 0.28)}
DROPPING, BY_BATCH = {"magistral", "minimax", "scalerl"}, {"magistral", "scalerl"}
BY_PROMPT, SUMMED = {"dapo", *DROPPING}, {"dr_grpo", "rloo"}


def twin(name: str, seen: Table) -> np.ndarray:
    """The update's gradient by each token's log-probability, in double precision."""
    batch, logprobs = seen.batch, seen.logprobs.double().numpy()
    assert batch.old_logprobs is not None
    old, owner = batch.old_logprobs.double().numpy(), batch.trajectory.tolist()
    first = {i: owner.index(i) for i in owner}
    group = {i: int(batch.group[row]) for i, row in first.items()}
    said = {
        i: [(row, t) for row, t in np.argwhere(batch.trained.numpy()) if owner[row] == i]
        for i in first
    }
    reward = {i: float(batch.reward[row]) for i, row in first.items()}
    if name == "rloo":
        assert batch.ref_logprobs is not None
        apart = old - batch.ref_logprobs.double().numpy()
        reward = {i: r - 0.05 * sum(apart[at] for at in said[i]) for i, r in reward.items()}
    advantage = twin_advantages(name, group, {i: reward[i] for i in first if batch.valid[first[i]]})
    cut = {i for i, row in first.items() if name == "dapo" and batch.truncated[row]}
    learning = [i for i in advantage if i not in cut]
    out = np.zeros(logprobs.shape)
    for i in learning:
        beside = sum(len(said[j]) for j in learning if group[j] == group[i])
        count = len(learning) * (64 if name in SUMMED else len(said[i]))
        if name in BY_PROMPT:
            count = len({group[j] for j in learning}) * beside
        ratios = [np.exp(logprobs[at] - old[at]) for at in said[i]]
        if name == "gspo":
            ratios = [np.exp(np.log(ratios).mean())] * len(ratios)
        for at, rho in zip(said[i], ratios, strict=True):
            out[at] = -advantage[i] * twin_ratio(name, rho, advantage[i]) / count
    return out


def twin_ratio(name: str, rho: float, advantage: float) -> float:
    """What a token's ratio counts as: itself, cut, or 0 where the clip stops the gradient."""
    low, high = CLIP.get(name, (0.2, 0.2))
    if name == "rloo":
        return rho
    if name in ("minimax", "scalerl"):
        return min(rho, 5.0)
    return 0.0 if (rho > 1 + high if advantage > 0 else rho < 1 - low) else rho


def twin_advantages(name: str, group: dict[int, int], reward: dict[int, float]) -> dict[int, float]:
    """Of the valid trajectories, without those of dropped groups."""
    fellows = {i: [reward[j] for j in reward if group[j] == group[i]] for i in reward}
    away = {i: reward[i] - np.mean(fellows[i]) for i in reward}
    if name in DROPPING:
        away = {i: a for i, a in away.items() if np.ptp(fellows[i]) > 0}
    if name in BY_BATCH:
        std = np.std([*away.values()], ddof=1)
        return {i: a / (std + 1e-6) for i, a in away.items()}
    lone = {i for i in away if len(fellows[i]) == 1}
    if name == "rloo":
        factor = {i: len(fellows[i]) / (len(fellows[i]) - 1) for i in away.keys() - lone}
        return {i: a * factor.get(i, 0.0) for i, a in away.items()}
    if name == "dr_grpo":
        return away
    std = {i: np.std(fellows[i], ddof=1) for i in away.keys() - lone}
    return {i: a / (std.get(i, 1.0) + 1e-6) for i, a in away.items()}


@pytest.mark.parametrize("name", OLDER)
def test_gradient_equals_a_twin(name: str) -> None:
    algorithm = one({"preset": name}).algorithm
    seen = table(algorithm)
    want = twin(name, seen)
    _, got = table_gradient(algorithm, seen)
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got[..., 0], want, rtol=2e-5, atol=1e-7)


# Which are one equation, in the gradient of a model.


def same(left: Algorithm, right: Algorithm, of: Batch, scale: float = 1.0) -> bool:
    """Whether two algorithms have one gradient, to 1e-6 of it, the right one's times ``scale``."""
    found = []
    for algorithm in (left, right):
        learner = a_learner(policy())
        part = prepared(learner, algorithm, of)
        found.append(gradient(learner, part, algorithm)[0])
    apart = (found[0] - scale * found[1]).norm() / found[0].norm()
    return bool(found[0].norm() > 1e-3) and bool(apart < 1e-6)


def far(of: Batch, by: float = 0.6) -> Batch:
    """Old log-probabilities so far from the policy's that every clip acts."""
    learner: Learner = a_learner(policy())
    filled = learner.fill(of, ["old_logprobs"]).old_logprobs
    assert filled is not None
    noise = torch.rand(filled.shape, generator=torch.Generator().manual_seed(3)) - 0.5
    return replace(of, old_logprobs=torch.where(of.trained, filled + by * noise, 0.0))


RAGGED = Batch.of(
    [
        group([1.0, 0.0, 0.25], [[4, 5], [6, 7, 8], [9]], id="a"),
        group([0.0, 2.0, 0.0], [[4], [6, 5], [9, 3, 2, 1]], prompt=[7, 7], id="b"),
    ]
)
EVEN = Batch.of(
    [
        group([1.0, 0.0, 0.25], [[4, 5, 6], [6, 7, 8], [9, 2, 2]], id="a"),
        group([0.0, 2.0, 0.0], [[4, 1, 1], [6, 5, 4], [9, 3, 2]], prompt=[7, 7], id="b"),
    ]
)
SINGLE = Batch.of([group([1.0, 0.0, 0.25], [[4], [6], [9]]), group([0.0, 1.0], [[5], [6]], id="b")])


def preset(name: str, *overrides: str) -> Algorithm:
    return one({"preset": name}, *overrides).algorithm


def test_dapo_is_grpo_with_its_settings_where_nothing_is_silent_or_truncated() -> None:
    assert same(preset("dapo"), GRPO(clip_high=0.28, aggregation="prompt"), far(RAGGED))
    assert not same(preset("dapo"), GRPO(), far(RAGGED))


def test_dr_grpo_is_grpo_without_a_scale_where_replies_are_as_long_as_its_constant() -> None:
    assert same(preset("dr_grpo", "algorithm.length=3"), GRPO(scale="none"), far(EVEN))
    assert same(DrGRPO(length=6), GRPO(scale="none", aggregation="token"), far(EVEN), scale=0.5)


def test_gspo_is_grpo_for_replies_of_one_token() -> None:
    clip = ["algorithm.clip_low=0.1", "algorithm.clip_high=0.15"]
    assert same(preset("gspo", *clip), GRPO(clip_low=0.1, clip_high=0.15), far(SINGLE))
    assert not same(preset("gspo", *clip), GRPO(clip_low=0.1, clip_high=0.15), far(RAGGED))


def test_magistral_and_scalerl_are_one_on_policy_and_minimax_is_dapo() -> None:
    assert same(preset("magistral"), preset("scalerl"), RAGGED)
    assert same(preset("minimax"), preset("dapo"), RAGGED)
    assert not same(preset("magistral"), preset("scalerl"), far(RAGGED))


def test_rloo_without_its_kl_is_dr_grpo_with_the_factor_of_leaving_one_out() -> None:
    plain = preset("rloo", "algorithm.kl.coefficient=0.0", "algorithm.length=5")
    assert same(plain, preset("dr_grpo", "algorithm.length=5"), RAGGED, scale=3 / 2)


def test_unused_bounds_change_nothing() -> None:
    """CISPO and RLOO weigh tokens by the ratio: one equation while no weight is cut."""
    cispo = CISPO(weight_max=1e6, scale="none", aggregation="token")
    assert same(RLOO(), cispo, far(RAGGED), scale=3 / 2)


def test_corrected_kl_is_plain_k2_on_policy() -> None:
    """k2 weighed by a ratio of 1, held fixed."""
    learner = a_learner(policy())
    ref = learner.fill(RAGGED, ["old_logprobs"]).old_logprobs
    assert ref is not None
    of = replace(RAGGED, ref_logprobs=torch.where(RAGGED.trained, ref - 0.3, 0.0))
    found = []
    for corrected in (False, True):
        algorithm = GRPO(kl=KL(0.5, "k2", corrected=corrected))
        part = replace(of, advantages=algorithm.advantages(of))
        found.append(gradient(learner, part, algorithm)[0])
    assert (found[0] - found[1]).norm() < 1e-6 * found[0].norm()
