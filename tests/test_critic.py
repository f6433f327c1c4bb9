"""Advantages along trajectories, each part of a critic alone, and the algorithms made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from records import group, invalid, problem, segment, trajectory
from upslope import credit
from upslope.advantages import Overlong
from upslope.algorithms.ilql import ILQL
from upslope.algorithms.iql import IQL
from upslope.algorithms.ppo import PPO
from upslope.algorithms.vapo import VAPO
from upslope.batch import Batch, Outputs
from upslope.chains import Chains, explained_variance, following, gae, length_adaptive, whitened
from upslope.critic import Critic, expectile, halves
from upslope.losses import KL
from upslope.types import Group, Turn, UserError

ONE = torch.zeros(1, dtype=torch.long)


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers])


def chain(*trained: int) -> Chains:
    return Chains.of(torch.tensor([trained]).bool(), ONE, ONE)


# Advantages.


def test_golden_generalised_advantages():
    """Reference 4.9: the third token is a tool's, and its value and reward are no step's."""
    got = gae(row(0, 0, 0, 1), row(0.1, 0.2, 0.9, 0.4), chain(1, 1, 0, 1), 1.0, 0.95)
    torch.testing.assert_close(got, row(0.8315, 0.77, 0.0, 0.6))


def test_each_step_is_discounted_once_and_only_trained_tokens_are_steps():
    got = gae(row(0, 0, 0, 0, 1, 0), torch.zeros(1, 6), chain(0, 1, 0, 0, 1, 0), 0.9, 0.8)
    torch.testing.assert_close(got, row(0, 0.72, 0, 0, 1, 0))


def test_an_unfinished_trajectory_is_worth_what_its_last_state_is():
    rewards, values = row(0.0, 0.0, -1.0), row(0.1, 0.3, 0.6)
    unfinished = torch.tensor([True])
    got = gae(rewards, values, chain(1, 1, 1), 0.5, 1.0, unfinished)
    # V of the last state stands for what follows: 0.5 * 0.6 - 0.3, and 0.5 * 0.3 - 0.1 + half that.
    torch.testing.assert_close(got, row(0.05, 0.0, 0.0))
    whole = gae(rewards, values, chain(1, 1, 1), 0.5, 1.0)
    torch.testing.assert_close(whole[0, 2], torch.tensor(-1.6))


def twin(rewards, values, trained, trajectory, segment, gamma, decays):
    """Generalised advantages one trajectory and one token at a time."""
    out = np.zeros_like(rewards)
    for number, t in enumerate(np.unique(trajectory)):
        rows = sorted(np.flatnonzero(trajectory == t), key=lambda r: segment[r])
        steps = [(r, c) for r in rows for c in np.flatnonzero(trained[r])]
        carried = ahead = 0.0
        for r, c in reversed(steps):
            delta = rewards[r, c] + gamma * ahead - values[r, c]
            carried = delta + gamma * decays[number] * carried
            ahead = values[r, c]
            out[r, c] = carried
    return out


def test_advantages_equal_a_loop_over_segments_in_any_order_of_rows():
    draw = np.random.default_rng(0)
    trajectory, segment = np.array([7, 3, 7, 3, 5]), np.array([1, 0, 0, 2, 0])
    trained = draw.random((5, 9)) < 0.6
    trained[4] = False  # an invalid trajectory's row
    rewards, values = draw.normal(size=(2, 5, 9))
    chains = Chains.of(*(torch.from_numpy(a) for a in (trained, trajectory, segment)))
    decays = np.array([0.5, 0.9])
    given = (torch.from_numpy(rewards), torch.from_numpy(values), chains, 0.97)
    got = gae(*given, torch.from_numpy(decays))
    kept = [trajectory[:4], segment[:4]]
    want = twin(rewards[:4], values[:4], trained[:4], *kept, 0.97, decays)
    np.testing.assert_allclose(got[:4], want, atol=1e-12)
    assert (got[4] == 0).all()
    assert chains.count.tolist() == [int(trained[[1, 3]].sum()), int(trained[[0, 2]].sum())]
    assert chains.last()[0].tolist() == [3, 0]
    assert torch.equal(chains.back(chains.lay(given[0])), given[0] * torch.from_numpy(trained))


def test_lambda_by_length_whitening_and_what_follows():
    torch.testing.assert_close(
        length_adaptive(torch.tensor([10, 40, 400]), 0.05), torch.tensor([0.0, 0.5, 0.95])
    )
    counted = torch.tensor([[True, True, False]])
    torch.testing.assert_close(whitened(row(1.0, 3.0, 99.0), counted), row(-1, 1, 0) / 2**0.5)
    assert (whitened(row(2.0, 2.0, 5.0), counted) == 0).all()
    assert following(row(1.0, 2.0, 3.0), chain(1, 0, 1)).tolist() == [[3.0, 0.0, 0.0]]


def test_explained_variance_by_hand():
    returns = torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert explained_variance(returns, returns + 5) == pytest.approx(1.0)
    assert explained_variance(returns, torch.full((4,), 0.3)) == pytest.approx(0.0)
    assert explained_variance(returns, torch.tensor([0.0, 0.5, 0.5, 0.0])) == pytest.approx(0.75)
    assert explained_variance(returns, 1 - returns) == pytest.approx(-3.0)
    assert explained_variance(torch.ones(4), returns) is None


# Each part of a critic alone.


def said(critic: Critic, value: float, goal: float, stored: float = 0.0) -> float:
    """The loss of one token, of which every head says the same value."""
    raw = torch.full((1, 1, critic.heads, critic.width), value)
    shares = torch.ones(1, critic.heads)
    return float(critic.loss(raw, row(goal), row(stored), shares))


def test_squared_distance_its_weight_and_its_clip():
    assert said(Critic(), 0.9, 0.5) == pytest.approx(0.08)
    assert said(Critic(weight=0.5), 0.9, 0.5) == pytest.approx(0.04)
    # The stored value is 0.2: beyond 0.4 the clipped distance counts where it is the larger one.
    assert said(Critic(clip=0.2), 0.9, 0.5, 0.2) == pytest.approx(0.08)
    assert said(Critic(clip=0.2), 0.9, 1.0, 0.2) == pytest.approx(0.5 * 0.6**2)
    raw = torch.full((1, 1, 1, 1), 0.9, requires_grad=True)
    Critic(clip=0.2).loss(raw, row(1.0), row(0.2), torch.ones(1, 1)).sum().backward()
    assert float(raw.grad) == 0.0  # it has moved as far as it may


def test_conservative_values_are_pushed_down():
    assert said(Critic(conservative=0.1), 0.9, 0.5) == pytest.approx(0.08 + 0.09)


def test_two_hot_shares_a_return_between_its_neighbours():
    critic = Critic(form="two_hot", bins=3, low=0.0, high=1.0)
    torch.testing.assert_close(
        critic.target(row(0.6, 2.0)), torch.tensor([[[0, 0.8, 0.2], [0, 0, 1]]])
    )
    assert said(critic, 0.0, 0.6) == pytest.approx(math.log(3))
    raw = torch.tensor([[[[0.0, math.log(2.0), 0.0]]]])
    assert float(critic.value(raw)) == pytest.approx(0.5)
    assert float(critic.loss(raw, row(0.6), row(0.0), torch.ones(1, 1))) == pytest.approx(
        -0.8 * math.log(0.5) - 0.2 * math.log(0.25)
    )


def test_hl_gauss_is_a_normal_distributions_share_of_each_bin():
    critic = Critic(form="hl_gauss", bins=3, low=0.0, high=1.0)
    got = critic.target(row(0.6))[0, 0]
    cdf = [0.5 * (1 + math.erf((e - 0.6) / (0.375 * 2**0.5))) for e in (-0.25, 0.25, 0.75, 1.25)]
    want = [(b - a) / (cdf[3] - cdf[0]) for a, b in pairwise(cdf)]
    assert got.tolist() == pytest.approx(want, rel=1e-5)
    fine = Critic(form="hl_gauss", bins=201, low=-1.0, high=2.0)
    centres = torch.linspace(-1, 2, 201)
    assert float(fine.target(row(0.6))[0, 0] @ centres) == pytest.approx(0.6, abs=1e-4)


def test_the_lower_of_twins_counts_and_each_learns_from_half():
    critic = Critic(twin=True)
    raw = torch.tensor([[[[0.4], [0.3]]]])
    assert float(critic.value(raw)) == pytest.approx(0.3)
    shares = torch.tensor([[2.0, 0.0]])
    assert float(critic.loss(raw, row(1.0), row(0.0), shares)) == pytest.approx(0.5 * 0.36)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50, (4000, 6), generator=draw)
    length, ids = torch.full((4000,), 5), torch.arange(4000)
    got = halves(tokens, length, ids, 2)
    assert (got.sum(1) == 2).all()
    assert float(got[:, 0].mean()) == pytest.approx(1.0, abs=0.05)
    tokens[:, 5] = 49  # padding says nothing
    assert torch.equal(halves(tokens, length, ids, 2), got)
    whole = halves(tokens[:4], length[:4], torch.tensor([9, 9, 2, 2]), 2)
    assert torch.equal(whole[0], whole[1])  # a trajectory's rows go together
    assert (halves(tokens, length, ids, 1) == 1).all()


def test_an_expectile_weighs_what_lies_above():
    got = expectile(torch.tensor([2.0, -2.0]), 0.9)
    torch.testing.assert_close(got, torch.tensor([3.6, 0.4]))


@pytest.mark.parametrize(
    "critic",
    [
        Critic(clip=0.3),
        Critic(form="two_hot", bins=5),
        Critic(form="hl_gauss", bins=5, twin=True),
        Critic(twin=True, conservative=0.2),
    ],
    ids=repr,
)
def test_value_gradients_are_finite_differences(critic):
    draw = torch.Generator().manual_seed(1)
    shape = (2, 3, critic.heads, critic.width)
    raw = torch.rand(shape, generator=draw, dtype=torch.float64).requires_grad_()
    goal, stored = torch.rand(2, 2, 3, generator=draw, dtype=torch.float64)
    shares = 2 * torch.rand(2, critic.heads, generator=draw, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: critic.loss(r, goal, stored, shares), raw)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"gate": 0.5}, "belong together"),
        ({"pretrain": 5}, "belong together"),
        ({"clip": 0.1, "twin": True}, "one scalar value"),
        ({"decode": 1.0, "place": "separate"}, 'place="trunk"'),
        ({"polyak": 1.0}, "between 0 and 1"),
        ({"floor": 0.2}, "less than a gate"),
        ({"l2": -1.0}, "must not be negative"),
        ({"low": 1.0, "high": 0.0}, "low less than"),
    ],
)
def test_contradictions_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Critic(**settings)


# When the policy learns.


def seen(*explained: float, critic: Critic) -> list[bool]:
    state, out = critic.start(), []
    for value in explained:
        state = critic.advance(state, {"critic/explained_variance": value})
        out.append(state["learns"] > 0)
    return out


def test_the_policy_waits_for_the_gate_and_again_below_the_floor():
    gated = Critic(gate=0.5, pretrain=20)
    # The moving average after n steps of 0.8 is 0.8 (1 - 0.7^n): 0.526 at the third.
    assert seen(0.8, 0.8, 0.8, -5.0, critic=gated) == [False, False, True, True]
    floored = replace(gated, floor=0.0)
    assert seen(0.8, 0.8, 0.8, -5.0, 0.8, critic=floored) == [False, False, True, False, False]
    assert seen(-3.0, critic=Critic()) == [True]  # without a gate it always learns
    state = gated.start()
    assert gated.advance(state, {})["explained"] == 0.0  # nothing to explain changes no average


def test_values_that_do_not_reach_the_gate_end_the_run():
    with pytest.raises(UserError, match=r"explained variance is 0\.20 after 3 steps.*gate=0\.5"):
        seen(0.3, 0.3, 0.3, critic=Critic(gate=0.5, pretrain=3))
    seen(0.9, 0.9, 0.9, 0.0, 0.0, 0.0, critic=Critic(gate=0.5, pretrain=3))


# Algorithms.


def filled(of: Batch, values: torch.Tensor | float = 0.0, **columns: torch.Tensor) -> Batch:
    given = torch.where(of.trained, torch.as_tensor(values), 0.0)
    return replace(of, values=given, **columns)


def test_ppo_by_hand():
    """Two replies of 2 and 1 tokens; nothing whitened, so that every number is seen."""
    of = Batch.of([group([1.0, 0.0], [[4, 5], [6]])])
    of = filled(of, torch.tensor([[0, 0, 0, 0.2, 0.6], [0, 0, 0, 0.5, 0]]))
    algorithm = PPO(scale="none", lambda_actor=0.5, lambda_critic=1.0, critic=Critic(clip=0.2))
    of = replace(of, advantages=algorithm.advantages(of))
    # 0.6 - 0.2 + 0.5 * 0.4 = 0.6, 1 - 0.6 = 0.4; 0 - 0.5.
    torch.testing.assert_close(of.advantages[of.trained], torch.tensor([0.6, 0.4, -0.5]))
    of = replace(of, old_logprobs=torch.where(of.trained, -1.0, 0.0))
    now = of.old_logprobs.clone()
    now[of.trained] += torch.tensor([1.5, 0.9, 0.5]).log()
    raw = torch.zeros(2, 5, 1, 1)
    raw[0, 3:, 0, 0], raw[1, 3, 0, 0] = torch.tensor([0.3, 0.9]), 0.4
    loss, metrics = algorithm.loss(Outputs(now, values=raw), of)
    policy = torch.tensor([-1.2 * 0.6, -0.9 * 0.4, 0.8 * 0.5])
    # Returns 1, 1 and 0; 0.9 is beyond 0.6 + 0.2, so that 0.2^2 counts.
    value = 0.5 * torch.tensor([0.7**2, 0.2**2, 0.4**2])
    torch.testing.assert_close(loss[of.trained], policy + value)
    assert metrics["critic/return"][of.trained].tolist() == pytest.approx([1, 1, 0])
    assert algorithm.weights(of)[of.trained].tolist() == pytest.approx([1 / 3] * 3)
    explained = 1 - np.var([0.8, 0.4, -0.5]) / np.var([1, 1, 0])
    assert algorithm.report(of)["critic/explained_variance"] == pytest.approx(explained)


def test_a_kl_in_the_reward_is_taken_off_every_token():
    of = Batch.of([group([1.0], [[4, 5]])])
    old = torch.where(of.trained, -1.0, 0.0)
    of = filled(of, 0.0, old_logprobs=old, ref_logprobs=2 * old)
    algorithm = PPO(scale="none", lambda_actor=1.0, kl=KL(0.1, "k1", "reward"))
    assert algorithm.advantages(of)[of.trained].tolist() == pytest.approx([0.8, 0.9])
    assert algorithm.needs == {"values", "old_logprobs", "ref_logprobs"}


def test_what_a_truncated_reply_is_worth_is_a_choice():
    of = Batch.of([group([1.0, 0.0], [[4, 5], [6, 7]])])
    of = replace(filled(of, 0.5), truncated=torch.tensor([True, False]))
    ends, goes_on = (
        PPO(scale="none", lambda_actor=1.0, truncated=how) for how in ("terminal", "bootstrap")
    )
    torch.testing.assert_close(
        ends.advantages(of)[of.trained], torch.tensor([0.5, 0.5, -0.5, -0.5])
    )
    torch.testing.assert_close(
        goes_on.advantages(of)[of.trained], torch.tensor([0.0, 0, -0.5, -0.5])
    )
    # Its last token is none to learn from: 3 are left.
    assert goes_on.weights(of)[of.trained].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])


def two_turns(earned: tuple[float, float]) -> Batch:
    """A play of two turns, of 2 tokens, and of 2 around one that nobody sampled."""
    of = problem("two turns")
    said = segment([4, 5, 6, 7, 8, 9])
    said = replace(said, trained=np.isin(np.arange(9), (3, 4, 6, 8)))
    turns = tuple(
        Turn(0, start, stop, "stop", reward=reward)
        for start, stop, reward in zip((3, 6), (5, 9), earned, strict=True)
    )
    play = replace(trajectory(of, [said], 1.0), turns=turns)
    return Batch.of([Group(of, (play,))])


def test_turns_as_actions_by_hand():
    """objectives.md 4.9's turns without the one that is none: V 0.1, then 0.4, r 0 and 1."""
    of = two_turns((0.0, 0.0))
    assert of.trained.sum() == 4
    values = of.trained * torch.tensor([[0, 0, 0, 0.1, 9, 9, 0.4, 9, 9]])
    of = filled(of, values)
    algorithm = PPO(scale="none", lambda_actor=0.95, lambda_critic=1.0, actions="turn")
    first, last = 0.3 + 0.95 * 0.6, 0.6
    found = algorithm.advantages(of)
    assert found[of.trained].tolist() == pytest.approx([first, first, last, last])
    # As the turns' own estimator has it, and whatever the critic says within a turn.
    want, _ = credit.turn_gae(
        torch.tensor([0.0, 1.0]),
        torch.tensor([0.1, 0.4]),
        torch.zeros(2, dtype=torch.int64),
        torch.arange(2),
        1.0,
        0.95,
    )
    assert found[of.trained].unique().tolist() == pytest.approx(sorted(want.tolist()))
    raw = torch.zeros(*of.tokens.shape, 1, 1)
    zero = replace(of, advantages=found, old_logprobs=torch.zeros(of.tokens.shape))
    _, metrics = algorithm.loss(Outputs(zero.old_logprobs, values=raw), zero)
    assert metrics["critic/return"][of.trained].tolist() == pytest.approx([1.0] * 4)


def test_what_turns_earn_is_earned_there():
    of = filled(two_turns((0.75, 0.0)), 0.0)
    assert of.earned is not None
    tokens = PPO(scale="none", lambda_actor=1.0).advantages(of)
    assert tokens[of.trained].tolist() == pytest.approx([1.0, 1.0, 0.25, 0.25])
    turns = PPO(scale="none", lambda_actor=1.0, actions="turn").advantages(of)
    assert torch.equal(turns, tokens)
    with pytest.raises(ValueError, match="a turn has no later value"):
        PPO(actions="turn", truncated="bootstrap")


def test_explained_variance_leaves_out_what_goes_on() -> None:
    """A value that stands for the rest would explain itself."""
    of = Batch.of([group([1.0, 0.0, 1.0], [[4, 5], [6, 7], [8, 9]])])
    values = torch.where(of.trained, 0.1, 0.0)
    values[2, 3:] = 7.0
    of = replace(filled(of, values), truncated=torch.tensor([False, False, True]))
    said = PPO(truncated="bootstrap").report(of)["critic/explained_variance"]
    assert said == pytest.approx(0.0)  # of the first two, by a constant
    rest = of.rows(torch.tensor([0, 1]))
    assert said == PPO().report(rest)["critic/explained_variance"]
    with pytest.raises(ValueError, match="cut ones go on: leave the limit out"):
        PPO(truncated="bootstrap", overlong=Overlong(4, 2))


def test_returns_beyond_the_bins_are_told_of() -> None:
    of = Batch.of([group([1.0, 3.0], [[4, 5], [6]])])
    of = filled(of, 0.0, old_logprobs=torch.zeros(of.tokens.shape))
    for form, want in (("two_hot", [0.0, 0.0, 1.0]), ("hl_gauss", [0.0, 0.0, 1.0])):
        algorithm = PPO(scale="none", critic=Critic(form=form, bins=5, low=0.0, high=2.0))
        given = replace(of, advantages=algorithm.advantages(of))
        raw = torch.zeros(*of.tokens.shape, 1, 5)
        _, metrics = algorithm.loss(Outputs(given.old_logprobs, values=raw), given)
        assert metrics["critic/outside_share"][of.trained].tolist() == want
    _, metrics = PPO(critic=Critic()).loss(Outputs(given.old_logprobs, values=raw[..., :1]), given)
    assert "critic/outside_share" not in metrics


def test_q_learns_what_turns_earn_where_they_do() -> None:
    of = two_turns((0.75, 0.0))
    zeros = torch.zeros(of.tokens.shape)
    of = filled(of, 0.0, q=zeros, old_logprobs=zeros)
    algorithm = IQL(critic=Critic())
    of = replace(of, advantages=algorithm.advantages(of))
    raw, q = zeros[..., None, None], zeros[..., None]
    loss, _ = algorithm.loss(Outputs(zeros, None, raw, q), of)
    assert loss[of.trained].tolist() == pytest.approx([0.0, 0.75**2, 0.0, 0.25**2])
    told = filled(of, zeros + of.trained * torch.tensor([0, 0, 0, 1, 1, 0, 0.25, 0, 0.25]))
    assert algorithm.report(told)["critic/explained_variance"] == pytest.approx(1.0)


def test_vapo_imitates_right_replies_and_lambda_is_a_replys_own():
    of = filled(Batch.of([group([1.0, 0.0], [[4, 5], [6]])]))
    algorithm = VAPO(alpha=1.0, scale="none", critic=Critic(), imitation=0.1)
    # Lambda 1/2 of the reply of 2 tokens.
    assert algorithm.advantages(of)[of.trained].tolist() == pytest.approx([0.5, 1.0, 0.0])
    zero = replace(of, advantages=torch.zeros_like(of.values))
    now = torch.where(of.trained, -2.0, 0.0)
    zero = replace(zero, old_logprobs=now)
    raw = torch.tensor([[[[0.0]]] * 5, [[[0.0]]] * 5]).reshape(2, 5, 1, 1)
    loss, _ = algorithm.loss(Outputs(now, values=raw), zero)
    assert loss[of.trained].tolist() == pytest.approx([0.5 + 0.2, 0.5 + 0.2, 0.0])


def two_segments() -> Batch:
    of = problem("two segments")
    double = trajectory(of, [segment([4, 5]), segment([6, 7, 8], [1, 2])], 1.0)
    other = trajectory(of, [segment([9])], 0.0, member=1)
    return Batch.of([Group(of, (double, other)), group([0.5, invalid(9.0)], id="b")])


@pytest.mark.parametrize("algorithm", [PPO(scale="none"), VAPO(critic=Critic()), IQL(), ILQL()])
def test_policy_and_value_gradients_are_finite_differences(algorithm):
    draw = torch.Generator().manual_seed(2)
    of = two_segments()
    shape = of.tokens.shape
    columns = torch.rand(4, *shape, generator=draw, dtype=torch.float64)
    of = filled(of, columns[0], q=columns[1] * of.trained, old_logprobs=-columns[2])
    of = replace(of, reward=of.reward.double())
    of = replace(of, advantages=algorithm.advantages(of))
    heads = algorithm.critic.heads
    raw = torch.rand(*shape, heads, 1, generator=draw, dtype=torch.float64)
    q = torch.rand(*shape, heads, generator=draw, dtype=torch.float64)

    def loss(logprobs: torch.Tensor, *judged: torch.Tensor) -> torch.Tensor:
        out = Outputs(logprobs, None, *judged, judged[1] - 3)
        per_token, _ = algorithm.loss(out, of)
        return torch.where(of.trained, per_token * algorithm.weights(of), 0.0).sum()

    # V is a target of Q's, without a gradient: its own is checked above.
    now = -columns[3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, j: loss(p, raw, j), (now, q.requires_grad_()))


def test_ilql_by_hand():
    of = Batch.of([group([1.0, 0.0], [[4, 5], [6]])])
    of = filled(of, 0.0, q=torch.tensor([[0, 0, 0, 0.5, 0.2], [0, 0, 0, 0.1, 0]]))
    algorithm = ILQL(tau=0.8, critic=Critic(conservative=0.5))
    of = replace(of, advantages=algorithm.advantages(of), old_logprobs=torch.zeros(2, 5))
    raw, q = torch.zeros(2, 5, 1, 1), torch.zeros(2, 5, 1)
    raw[0, 3:, 0, 0], raw[1, 3, 0, 0] = torch.tensor([0.3, 0.4]), 0.2
    q[0, 3:, 0], q[1, 3, 0] = torch.tensor([0.7, 0.6]), 0.3
    now = torch.where(of.trained, -1.5, 0.0)
    surely = torch.full((2, 5, 1), -2.0)
    loss, _ = algorithm.loss(Outputs(now, None, raw, q, surely), of)
    # V: Q - V is 0.2, -0.2 and -0.1. Q: towards the next V, 0.4, and the rewards 1 and 0.
    values = torch.tensor([0.8 * 0.04, 0.2 * 0.04, 0.2 * 0.01])
    away = torch.tensor([0.3**2, 0.4**2, 0.3**2])
    torch.testing.assert_close(loss[of.trained], values + away + 0.5 * 2.0 + 1.5)


def test_iql_weighs_answers_by_what_q_says():
    of = Batch.of([group([1.0, 0.0], [[4, 5], [6]])])
    of = filled(of, 0.5, q=torch.tensor([[0, 0, 0, 0.5, 0.7], [0, 0, 0, 9.0, 0]]))
    got = IQL(temperature=0.2, most=20.0).advantages(of)
    assert got[of.trained].tolist() == pytest.approx([1.0, math.e, 20.0])
    assert (got[~of.trained] == 0).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"tau": 1.0}, "tau must lie"), ({"critic": Critic(form="two_hot")}, "expectile is of one")],
)
def test_settings_of_q_that_mean_nothing_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        IQL(**settings)


def test_discounts_lie_between_0_and_1():
    with pytest.raises(ValueError, match="lambda_actor must be between 0 and 1"):
        PPO(lambda_actor=1.5)
    with pytest.raises(ValueError, match="alpha must be above 0"):
        VAPO(alpha=0.0)
