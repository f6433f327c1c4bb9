"""A critic in the learner: what its heads read, what learns and what rests, and what it costs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import small_policies
from counting import counter
from learners import gradient, plain, policy
from test_learner import batch, same
from upslope.algorithms.ilql import ILQL
from upslope.algorithms.iql import IQL
from upslope.algorithms.ppo import PPO
from upslope.algorithms.sft import SFT
from upslope.algorithms.vapo import VAPO
from upslope.batch import Batch
from upslope.critic import Critic
from upslope.learner import Learner
from upslope.ledger import Ledger
from upslope.models.load import load, save
from upslope.models.logprobs import token_logprobs, unpacked
from upslope.models.policy import Policy
from upslope.settings import Learner as Settings
from upslope.types import UserError

TWINS = Critic(twin=True, polyak=0.25, l2=0.1)
APART = replace(TWINS, place="separate")
GATED = Critic(gate=0.5, pretrain=9)


def learner_of(
    algorithm: Any, of: Policy | None = None, *, drawn: bool = True, **settings: Any
) -> Learner:
    """A learner with a critic of random heads, which would say 0 otherwise."""
    given = Settings(**{"lr": 1e-2, "micro_tokens": 10_000, "clip": 0.0, **settings})
    made = Learner(of or policy(), given, lambda *spent: None, algorithm=algorithm)
    torch.manual_seed(4)
    assert made.critic is not None
    judges = [j for j in (made.critic.online, made.critic.target) if drawn and j is not None]
    with torch.no_grad():
        for judge in judges:
            for weight in judge.heads.parameters():
                weight.copy_(0.3 * torch.randn_like(weight))
    return made


def ready(learner: Learner, algorithm: Any, of: Batch | None = None) -> Batch:
    """A batch with all that the algorithm needs, and log-probabilities that are a little off."""
    whole = replace(of or batch(), state=algorithm.start())
    whole = learner.fill(whole, sorted({*algorithm.needs, "old_logprobs"}))
    whole = replace(whole, old_logprobs=whole.old_logprobs - 0.05 * whole.trained)
    return replace(whole, advantages=algorithm.advantages(whole))


def weights(learner: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.policy.model.parameters()]


def heads(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.critic.weights().items()}


def every_gradient(
    learner: Learner, of: Batch, algorithm: Any, budget: int = 10_000
) -> torch.Tensor:
    """The update's, of the policy and of the critic."""
    learner.accumulate(of, algorithm, budget)
    parts = [p.grad.flatten() for own in learner.parameters for p in own if p.grad is not None]
    learner.optimiser.zero_grad()
    return torch.cat(parts)


def hidden(of: Policy, rows: Batch) -> torch.Tensor:
    """[row token hidden] of the state that predicts each token, by transformers' own modules."""
    with torch.no_grad():
        states = plain(of).model(rows.tokens).last_hidden_state
    return torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)


def test_values_and_q_are_of_the_state_before_the_token():
    algorithm = IQL(critic=Critic(twin=True))
    learner = learner_of(algorithm)
    rows = batch()
    got = learner.fill(rows, ["values", "q"])
    states, judge = hidden(learner.policy, rows), learner.critic.online.heads
    values = (states @ judge.value.weight.t() + judge.value.bias).amin(-1)
    torch.testing.assert_close(got.values, values * rows.trained, atol=1e-5, rtol=0)
    q = torch.stack([(states * w[rows.tokens]).sum(-1) for w in judge.q]).amin(0)
    torch.testing.assert_close(got.q, q * rows.trained, atol=1e-5, rtol=0)
    assert got.old_logprobs is None
    alone = learner.fill(rows, ["old_logprobs"]).old_logprobs
    together = learner.fill(rows, ["old_logprobs", "q", "values"])
    assert torch.equal(together.old_logprobs, alone)
    assert torch.equal(together.values, got.values)


def test_the_log_softmax_of_q_is_over_all_tokens():
    algorithm = IQL(critic=Critic(twin=True, conservative=1.0))
    learner = learner_of(algorithm)
    rows = ready(learner, algorithm)
    rows = replace(rows, weights=algorithm.weights(rows))
    out, _, _ = learner._score(rows, algorithm, _Nothing(), None)
    states = hidden(learner.policy, rows)
    for head, weight in enumerate(learner.critic.online.heads.q):
        want = (states @ weight.t()).log_softmax(-1).gather(-1, rows.tokens[..., None])[..., 0]
        got = out.q_logprobs[..., head].detach()
        torch.testing.assert_close(got, want.detach() * rows.trained, atol=1e-5, rtol=0)


class _Nothing:
    """A tally that nobody reads."""

    def drift(self, logprobs: torch.Tensor, part: Batch) -> None:
        """Not looked at."""


CASES = [
    PPO(critic=Critic(clip=0.2)),
    PPO(critic=replace(APART, form="two_hot", bins=7)),
    VAPO(critic=TWINS),
    IQL(),
    ILQL(critic=replace(APART, conservative=0.2)),
]


@pytest.mark.parametrize("algorithm", CASES, ids=repr)
def test_one_gradient_whatever_the_split_and_packing(algorithm):
    learner = learner_of(algorithm)
    whole = ready(learner, algorithm)
    want = every_gradient(learner, whole, algorithm)
    assert same(want, every_gradient(learner, whole, algorithm, 25))
    with unpacked(learner.policy):
        assert same(want, every_gradient(learner, whole, algorithm, 1))


def test_the_gradient_through_the_trunk_is_autograds_own():
    """Through layers by hand, and through transformers' modules."""
    algorithm = PPO(critic=Critic(clip=0.2))
    learner = learner_of(algorithm)
    whole = ready(learner, algorithm)
    got = every_gradient(learner, whole, algorithm)
    assert learner.policy.lean
    learner.policy.lean = False
    assert same(every_gradient(learner, whole, algorithm), got)


def test_a_stopped_trunk_learns_from_the_policy_alone():
    whole = ready(learner_of(PPO()), PPO())
    flowing, stopped, bare = (
        gradient(learner_of(PPO(critic=critic)), whole, PPO(critic=critic))[0]
        for critic in (Critic(), Critic(trunk="stopped"), Critic(weight=0.0))
    )
    assert same(stopped, bare)
    assert not same(stopped, flowing)


@pytest.mark.parametrize("place", ["trunk", "separate"])
def test_while_values_alone_are_learned_the_policy_stays_bitwise(place):
    algorithm = PPO(critic=replace(GATED, place=place))
    learner = learner_of(algorithm, drawn=False, weight_decay=0.1)
    whole, before, judged = ready(learner, algorithm), weights(learner), heads(learner)
    for _ in range(3):
        metrics = learner.update(whole, algorithm)
    assert metrics["update/grad_norm"] == 0.0 < metrics["critic/grad_norm"]
    after = zip(before, weights(learner), strict=True)
    assert all(torch.equal(a, b) for a, b in after)
    assert not any(torch.equal(heads(learner)[n], judged[n]) for n in judged if "bias" not in n)
    open_ = replace(whole, state={**algorithm.start(), "learns": 1.0})
    assert learner.update(open_, algorithm)["update/grad_norm"] > 0
    assert not torch.equal(before[0], weights(learner)[0])


def test_values_learn_what_was_earned():
    """Of rewards that the prompt tells, explained variance rises to nearly 1."""
    algorithm = PPO(critic=Critic(gate=0.9, pretrain=999, rate=1.0, place="separate"))
    learner = learner_of(algorithm, drawn=False)
    whole = replace(batch(), state=algorithm.start())
    whole = replace(whole, reward=(whole.group % 2).float())
    seen = []
    for _ in range(40):
        whole = learner.fill(whole, ["values"])
        seen.append(algorithm.report(whole)["critic/explained_variance"])
        learner.update(replace(whole, advantages=algorithm.advantages(whole)), algorithm)
    assert seen[0] == 0.0
    assert seen[-1] > 0.9


@pytest.mark.parametrize(
    "algorithm", [PPO(critic=TWINS), PPO(critic=APART)], ids=["trunk", "separate"]
)
def test_a_copy_follows_and_weights_are_pulled_to_where_they_began(algorithm):
    learner = learner_of(algorithm, drawn=False)
    critic = learner.critic
    whole = ready(learner, algorithm)
    began = heads(learner)
    learner.update(whole, algorithm)
    moved, copied = heads(learner), critic.target.weights(critic.separate)
    for name in began:
        torch.testing.assert_close(copied[name], began[name].lerp(moved[name], 0.25))
    for parameter in critic.weights().values():
        parameter.grad = torch.zeros_like(parameter)
    critic.pull()
    for name, parameter in critic.weights().items():
        torch.testing.assert_close(parameter.grad, 0.1 * (moved[name] - began[name]))
    learner.optimiser.zero_grad()
    # Stored values are the copy's.
    stored = learner.fill(whole, ["values"]).values
    state = copy.deepcopy(dict(critic.state()))
    critic.load_state({**state, "online": state["target"]})
    critic.target = None
    assert torch.equal(learner.fill(whole, ["values"]).values, stored)


@pytest.mark.parametrize(
    "algorithm",
    [VAPO(critic=replace(TWINS, gate=0.9, pretrain=9)), PPO(critic=APART), ILQL()],
    ids=repr,
)
def test_a_state_loaded_goes_on_bitwise(algorithm):
    def go_on(learner: Learner) -> Batch:
        whole = ready(learner, algorithm)
        learner.update(whole, algorithm)
        return whole

    first = learner_of(algorithm, drawn=False)
    go_on(first)
    kept, model = copy.deepcopy(dict(first.state())), copy.deepcopy(first.policy.model.state_dict())
    go_on(first)
    again = learner_of(algorithm, drawn=False)
    again.policy.model.load_state_dict(model)
    again.load_state(kept)
    go_on(again)
    for one, other in ((heads(first), heads(again)), (first.critic.state()["target"],) * 2):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    copies = first.critic.state()["target"], again.critic.state()["target"]
    assert all(torch.equal(copies[0][name], copies[1][name]) for name in copies[0])


@pytest.mark.parametrize(
    "algorithm", [*CASES, PPO(critic=GATED), PPO(critic=Critic(trunk="stopped"))], ids=repr
)
def test_the_ledger_counts_what_a_critic_costs(algorithm):
    ledger = Ledger()
    settings = Settings(lr=1e-2, micro_tokens=10_000)
    # As wide a vocabulary as any, so that heads are a part of it that shows.
    learner = Learner(policy(vocabulary=97), settings, ledger.add, algorithm=algorithm)
    whole = replace(batch(), state=algorithm.start())
    for work in ("fill", "update"):
        before = ledger.totals().flops
        with counter() as counted:
            if work == "fill":
                whole = learner.fill(whole, sorted(algorithm.needs))
                whole = replace(whole, advantages=algorithm.advantages(whole))
            else:
                learner.update(whole, algorithm)
        spent = ledger.totals().flops - before
        assert spent == pytest.approx(counted.get_total_flops(), rel=0.02)


# Decoding with Q.


def test_who_takes_the_weights_takes_the_head_with_q_in_it():
    algorithm = ILQL(critic=Critic(twin=True, decode=3.0))
    of = policy()
    assert not of.tied
    learner = learner_of(algorithm, of)
    rows, head = batch(), of.head()[0].detach().clone()
    q = torch.stack([*learner.critic.online.heads.q]).mean(0).detach()
    taken = {name: tensor.clone() for name, tensor in learner.tensors()}
    torch.testing.assert_close(taken["lm_head.weight"], head + 3.0 * q)
    assert torch.equal(of.head()[0], head)  # what is trained has none of it
    sampled = policy()
    sampled.model.load_state_dict(taken)
    states = hidden(of, rows)
    logits, judged = states @ head.t(), states @ q.t()
    values = torch.randn(*rows.tokens.shape, 1)  # a softmax forgets them
    want = (logits.log_softmax(-1) + 3.0 * (judged - values)).log_softmax(-1)
    want = want.gather(-1, rows.tokens[..., None])[..., 0] * rows.trained
    ones = torch.ones(rows.tokens.shape)
    got = token_logprobs(sampled, rows.tokens, rows.length, rows.trained, ones)[0]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    of.settle()
    assert torch.equal(of.head()[0], taken["lm_head.weight"])
    assert of.tilt is None
    assert of.tilted() == {}


def test_a_tied_head_becomes_one_of_its_own_and_stays_it_on_disk(tmp_path: Path):
    of = load("ladder:0.1m")
    ids = torch.tensor([[5, 6, 7]])
    before = of.model(ids).logits
    assert of.tied
    of.untie()
    assert not of.tied
    assert torch.equal(of.model(ids).logits, before)
    with torch.no_grad():
        of.head()[0].mul_(2.0)
    save(of, tmp_path / "model")
    back = load(str(tmp_path / "model"))
    assert not back.tied
    torch.testing.assert_close(back.model(ids).logits, 2 * before)
    with pytest.raises(UserError, match=r"critic\.decode=8 .*its head is its embedding"):
        learner_of(ILQL(), load("ladder:0.1m"))
    with pytest.raises(UserError, match=r"critic\.decode=2 .*learns no Q: leave it out"):
        learner_of(PPO(critic=Critic(decode=2.0)))


@dataclass(frozen=True)
class Uncritical(SFT):
    """Wants values and does not say whose."""

    needs: ClassVar[frozenset[Any]] = frozenset({"values"})


def test_values_without_a_critic_are_refused():
    with pytest.raises(UserError, match="Uncritical wants values and has no critic"):
        Learner(policy(), Settings(micro_tokens=99), lambda *spent: None, algorithm=Uncritical())
    bare = Learner(policy(), Settings(micro_tokens=99), lambda *spent: None, algorithm=SFT())
    assert bare.critic is None
    with pytest.raises(ValueError, match="made without a critic"):
        bare.fill(batch(), ["values"])


def test_rows_are_padded_where_the_architecture_cannot_be_packed():
    algorithm = PPO()
    learner = learner_of(algorithm, small_policies.policy("mistral-windowed"))
    assert not learner.policy.packs
    whole = ready(learner, algorithm, batch())
    want = every_gradient(learner, whole, algorithm)
    assert same(want, every_gradient(learner, whole, algorithm, 1))
