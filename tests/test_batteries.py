"""The algorithm battery passes on every algorithm, and catches what is seeded into right ones."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch

from upslope import losses
from upslope.advantages import Overlong
from upslope.algorithms import ALGORITHMS
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.reinforce import Reinforce
from upslope.algorithms.simpo import SimPO
from upslope.batch import CLAIMS, Batch, Outputs
from upslope.batteries import check_algorithm
from upslope.components import build, find
from upslope.types import UserError

KLS: list[dict[str, Any]] = [
    {},
    {"kl": {"coefficient": 0.1, "kind": "k3"}},
    {"kl": {"coefficient": 0.1, "kind": "k1", "place": "reward"}},
]
FORMS = ["two_hot", "hl_gauss"]
GROUPED = ["cispo", "dr_grpo", "grpo", "gspo", "rloo"]
AROUND: dict[str, dict[str, Any]] = {
    "constrained": {"costs": {"length": {"budget": 4, "start": 0.5}}},
    "distill": {"teacher": "larger", "reward": 0.5},
    "gigpo": {},
    "turns": {},
}
PENALISED = [
    n for n in ALGORITHMS if "kl" in {f.name for f in fields(find(ALGORITHMS, n, "algorithm"))}
]
ALONE = [name for name in ALGORITHMS if name not in AROUND]
CASES = [(name, kl) for name in ALONE for kl in KLS if name in PENALISED or not kl]
CASES += [("rloo", {"aggregation": "constant", "length": 7}), ("sft", {"aggregation": "sequence"})]
CASES += [("grpo", {"aggregation": "token"}), ("grpo", {"aggregation": "prompt"})]
CASES += [(name, {"zero_variance": how}) for name in GROUPED for how in ("drop", "resample")]
CASES += [(name, {"overlong": {"mask": True}, "zero_variance": "drop"}) for name in GROUPED]
CASES += [
    ("grpo", {"overlong": {"limit": 6, "cache": 3}}),
    ("reinforce", {"overlong": {"mask": True}}),
]
CASES += [(name, {"entropy": {"coefficient": 0.1}}) for name in ("gspo", "reinforce")]
CASES += [(name, {"entropy": {"target": 0.5}}) for name in ("cispo", "reinforce")]
CASES += [
    ("grpo", {"kl": {"coefficient": 0.1, "kind": k, "corrected": True}}) for k in ("k1", "k2")
]
CASES += [("ppo", {"critic": {"twin": True}, "truncated": "bootstrap", "scale": "none"})]
CASES += [("ppo", {"critic": {"form": how}, "entropy": {"target": 0.5}}) for how in FORMS]
CASES += [("vapo", {"critic": {"clip": 0.1}, "overlong": {"mask": True}, "alpha": 0.5})]
CASES += [("iql", {"critic": {"conservative": 0.0, "place": "separate"}})]
RISKS = {"risk": {"budget": 0.1, "multiplier": "pid", "start": 0.5, "derivative": 0.1}}
RISKS |= {name: {"budget": 1.0, "start": 0.2} for name in ("kl", "turns", "truncated")}
INSIDE = [{"type": name, **kl} for name in ("gspo", "reinforce") for kl in KLS]
CASES += [
    (name, {**own, "of": of}) for name, own in AROUND.items() for of in ({"type": "grpo"}, *INSIDE)
]
CASES += [("constrained", {"costs": RISKS, "of": {"type": "gigpo", "of": {"type": "rloo"}}})]
CASES += [("distill", {"teacher": "larger"}), ("turns", {"of": {"type": "awr"}})]
CASES += [("distill", {"teacher": "larger", "reward": 0.5, "of": {"type": "turns"}})]
CASES += [("dpo", {"form": "hinge"}), ("dpo", {"form": "robust", "smoothing": 0.1, "margin": 0.3})]
CASES += [("ipo", {"score": "sum"}), ("raft", {"threshold": 0.1, "top": 1})]
CASES += [("awr", {"baseline": "batch"}), ("awr", {"baseline": "given", "given": 0.4})]
CASES += [("grpo", {"scale": "batch"}), ("gspo", {"scale": "none"})]
CASES += [("cispo", {"scale": "batch"}), ("cispo", {"scale": "none"}), ("reinforce", {"decay": 0})]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_every_algorithm_passes(name, settings):
    algorithm = build(find(ALGORITHMS, name, "algorithm"), settings, "algorithm")
    proven = [proof.claim for proof in check_algorithm(algorithm)]
    for claim, sentence in CLAIMS.items():
        assert (sentence in proven) == (claim in algorithm.claims)
    assert "any split, order, padding and ids give one gradient" in proven


@pytest.mark.parametrize("settings", [{"entropy": {"target": 1.0}}, {"kl": {"coefficient": 0.1}}])
@pytest.mark.parametrize("name", [*GROUPED, "reinforce"])
def test_what_moves_rows_without_signal_is_not_claimed_to_be_silent(name, settings):
    algorithm = build(find(ALGORITHMS, name, "algorithm"), settings, "algorithm")
    assert algorithm.claims <= {"alone_no_signal", "equal_rewards_no_signal"}


# Faults in algorithms, each a small change to a right one.


@dataclass(frozen=True)
class ByStride(GRPO):
    def advantages(self, batch: Batch) -> torch.Tensor:
        group = torch.arange(len(batch)) // 4
        rewards = torch.where(batch.valid, batch.reward, 0.0)
        mean = torch.stack([rewards[group == g].mean() for g in group])
        return (rewards - mean)[:, None] * batch.trained


@dataclass(frozen=True)
class PerMicroBatch(GRPO):
    def loss(self, out: Outputs, batch: Batch) -> Any:
        loss, metrics = super().loss(out, batch)
        return loss / batch.trained.sum(), metrics


@dataclass(frozen=True)
class SplitsTrajectories(GSPO):
    """Its ratio runs over a trajectory that a micro-batch may split."""

    couples = "row"


@dataclass(frozen=True)
class Punishes(GRPO):
    """Forgets that a length penalty is a signal of its own."""

    overlong: Overlong = Overlong(6, 3)
    claims = frozenset({"equal_rewards_no_signal"})


@dataclass(frozen=True)
class PaddedMean(GRPO):
    def weights(self, batch: Batch) -> torch.Tensor:
        return batch.trained / batch.tokens.numel()


@dataclass(frozen=True)
class TrainsThePrompt(GRPO):
    def weights(self, batch: Batch) -> torch.Tensor:
        return torch.ones(batch.tokens.shape)


@dataclass(frozen=True)
class AdvantageOnThePrompt(GRPO):
    def advantages(self, batch: Batch) -> torch.Tensor:
        return batch.reward[:, None].expand(batch.tokens.shape).clone()


@dataclass(frozen=True)
class InvalidVotes(GRPO):
    def advantages(self, batch: Batch) -> torch.Tensor:
        values, _ = batch.by_trajectory(batch.reward)
        return batch.spread(values - values.mean())


@dataclass(frozen=True)
class BatchMean(GRPO):
    """Rewards, less the mean of all groups: one that is alone is compared with others."""

    def advantages(self, batch: Batch) -> torch.Tensor:
        rewards = torch.where(batch.valid, batch.reward, 0.0)
        mean = rewards.sum() / batch.valid.sum()
        return torch.where(batch.trained, (rewards - mean)[:, None], 0.0)


@dataclass(frozen=True)
class RoundedMean(BatchMean):
    """Equal rewards, less their mean as it is rounded."""

    claims = frozenset({"equal_rewards_no_signal"})


@dataclass(frozen=True)
class Ascends(GRPO):
    def loss(self, out: Outputs, batch: Batch) -> Any:
        loss, metrics = super().loss(out, batch)
        return -loss, metrics


@dataclass(frozen=True)
class NotSilent(GRPO):
    """An unclaimed pull that policy_gradient cannot see, at ratio 1."""

    def loss(self, out: Outputs, batch: Batch) -> Any:
        loss, metrics = super().loss(out, batch)
        return loss + 0.1 * losses.kl(out.logprobs, batch.old_logprobs, "k2"), metrics


@dataclass(frozen=True)
class Overflows(GRPO):
    def loss(self, out: Outputs, batch: Batch) -> Any:
        rho = (out.logprobs - batch.old_logprobs).exp()
        return -rho * batch.advantages, {}


@dataclass(frozen=True)
class NanOnNothing(GRPO):
    def weights(self, batch: Batch) -> torch.Tensor:
        return batch.trained / batch.trained.sum()


@dataclass(frozen=True)
class OneNumber(GRPO):
    def loss(self, out: Outputs, batch: Batch) -> Any:
        loss, metrics = super().loss(out, batch)
        return loss.sum(), metrics


@dataclass(frozen=True)
class OddColumn(GRPO):
    needs = frozenset({"old_logprob"})


@dataclass(frozen=True)
class OddClaim(GRPO):
    claims = frozenset({"converges"})


@dataclass(frozen=True)
class KeepsNothing(GRPO):
    def keep(self, group: Any) -> Any:
        return None


@dataclass(frozen=True)
class TensorState(Reinforce):
    def start(self) -> Any:
        return {"baseline": torch.tensor(0.0)}


@dataclass(frozen=True)
class InfiniteState(Reinforce):
    def start(self) -> Any:
        return {"baseline": 0.0, "best": -float("inf")}


@dataclass(frozen=True)
class LosesState(Reinforce):
    """Goes by the very object it made, which no checkpoint can hold."""

    def advance(self, state: Any, metrics: Any) -> Any:
        return {"baseline": metrics["reward/mean"], 0: 1.0}


@dataclass(frozen=True)
class SetSettings(GRPO):
    scales: frozenset[int] = frozenset({1, 2})


@dataclass(frozen=True)
class NoneIsNotItsDefault(GRPO):
    bound: float | None = 1.0


@dataclass
class Mutable:
    """Has every part, and settings that may change under way."""

    needs = reads = claims = frozenset()
    couples = "row"
    keep = start = advance = advantages = weights = loss = None


@dataclass(frozen=True)
class Unfinished:
    """Has no loss yet."""

    needs = reads = claims = frozenset()
    couples = "row"
    keep = start = advance = advantages = weights = None


@dataclass(frozen=True)
class BlindToWhoSampled(GRPO):
    claims = frozenset({"any_policy"})


@dataclass(frozen=True)
class SplitsPairs(SimPO):
    couples = "row"


FAULTS = [
    (BlindToWhoSampled(), "whoever gave the answers changes nothing"),
    (SplitsPairs(), "batch is split"),
    (ByStride(), "with the order of rows"),
    (PerMicroBatch(), "batch is split"),
    (SplitsTrajectories(), "batch is split"),
    (Punishes(), "gives rewards of"),
    (PaddedMean(), "padding"),
    (TrainsThePrompt(), "weights are not 0 on tokens that are not trained"),
    (AdvantageOnThePrompt(), "advantages are not 0 on tokens that are not trained"),
    (InvalidVotes(), "lets an invalid reward vote"),
    (BatchMean(), "no signal from groups of one"),
    (RoundedMean(), "gives rewards of"),
    (Ascends(), "claims the policy gradient"),
    (NotSilent(), "claims that rows without advantage are silent"),
    (Overflows(), "overflows at a log-ratio"),
    (NanOnNothing(), "nothing is trained"),
    (OneNumber(), r"gives loss the shape \[\]"),
    (OddColumn(), "needs names 'old_logprob'"),
    (OddClaim(), "claims names 'converges'"),
    (KeepsNothing(), "keep must answer True or False"),
    (TensorState(), "state must be finite numbers"),
    (InfiniteState(), "state must be finite numbers"),
    (LosesState(), "comes back from a checkpoint"),
    (SetSettings(), "algorithm.scales should be"),
    (NoneIsNotItsDefault(bound=None), "settings do not survive a recipe"),
    (Mutable(), "must be a frozen dataclass"),
    (Unfinished(), "has no loss"),
]


@pytest.mark.parametrize(("algorithm", "said"), FAULTS, ids=lambda x: type(x).__name__)
def test_a_fault_in_an_algorithm_is_named(algorithm, said):
    with pytest.raises(UserError, match=said):
        check_algorithm(algorithm)
