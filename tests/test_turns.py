"""Turn-level credit: a batch's columns, the pure functions, and the algorithms around others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from plays import Dialogue, asked, player, user
from records import group, invalid, problem, segment, trajectory
from upslope import costs, credit
from upslope.algorithms.awr import AWR
from upslope.algorithms.cispo import CISPO
from upslope.algorithms.distill import Distill
from upslope.algorithms.dpo import DPO
from upslope.algorithms.dr_grpo import DrGRPO
from upslope.algorithms.gigpo import GiGPO
from upslope.algorithms.grpo import GRPO
from upslope.algorithms.gspo import GSPO
from upslope.algorithms.iql import IQL
from upslope.algorithms.kto import KTO
from upslope.algorithms.ppo import PPO
from upslope.algorithms.reinforce import Reinforce
from upslope.algorithms.reinforce_pp import ReinforcePP
from upslope.algorithms.rloo import RLOO
from upslope.algorithms.turns import Turns
from upslope.batch import Batch, Outputs
from upslope.losses import KL
from upslope.types import Group, Reply, Reward, Segment, Trajectory, Turn, UserError

NONE = Reward(0.0)


def play(
    rewards: Sequence[float],
    total: float | Reward,
    states: Sequence[str] = (),
    member: int = 0,
    words: int = 2,
) -> Trajectory:
    """One segment: a prompt of 2 tokens, then turns of ``words`` tokens with one of the env's
    between them."""
    tokens, trained, turns = [1, 2], [False, False], []
    for i, earned in enumerate(rewards):
        start = len(tokens)
        tokens += [5 + i] * words
        trained += [True] * words
        state = states[i] if states else ""
        turns.append(Turn(0, start, len(tokens), "stop", 1.0, earned, state))
        tokens, trained = [*tokens, 3], [*trained, False]
    marks = np.array(trained)
    row = Segment(np.array(tokens), marks, np.where(marks, -1.0, 0.0), np.where(marks, 0, -1))
    earned_total = total if isinstance(total, Reward) else Reward(total)
    return Trajectory(problem(), 0, member, (row,), tuple(turns), (), earned_total)


def together(*plays: Trajectory) -> Group:
    return Group(problem(), tuple(replace(p, member=i) for i, p in enumerate(plays)))


def by_turn(values: torch.Tensor, batch: Batch, row: int) -> list[float]:
    """A column's value on each turn of a row, on whose tokens it must be the same."""
    out = []
    for k in range(int(batch.turn[row].max()) + 1):
        own = values[row][batch.turn[row] == k]
        assert (own == own[0]).all()
        out.append(float(own[0]))
    return out


# The columns.


def test_a_token_knows_the_turn_that_sampled_it() -> None:
    batch = Batch.of([together(play([0, 0], 1.0), play([0], 0.0))])
    assert batch.turn.tolist() == [[-1, -1, 0, 0, -1, 1, 1, -1], [-1, -1, 0, 0, -1, -1, -1, -1]]
    assert batch.earned is None
    assert batch.anchor is None


def test_turns_are_counted_over_segments_and_an_interrupted_one_goes_on() -> None:
    of = problem()
    double = trajectory(of, [segment([4, 5]), segment([6])], 1.0)
    assert Batch.of([Group(of, (double,))]).turn.tolist() == [[-1] * 3 + [0, 0], [-1] * 3 + [1, -1]]
    cut = replace(double.turns[0], stop_reason="interrupted")
    thought = replace(double, turns=(cut, double.turns[1]))
    assert Batch.of([Group(of, (thought,))]).turn.max() == 0


def test_what_was_earned_lies_where_it_was() -> None:
    at = Reward(1.0, at=((0, 3, 0.25), (0, 3, 0.5)))
    batch = Batch.of([together(play([0.5, -1.0], 1.0), play([0], at))])
    assert batch.earned is not None
    assert batch.earned[0].tolist() == [0, 0, 0, 0.5, 0, 0, -1.0, 0]
    assert batch.earned[1].tolist() == [0, 0, 0, 0.75, 0, 0, 0, 0]
    lost = replace(play([0.5], 1.0), reward=invalid())
    kept = Batch.of([together(lost, play([0.5], 1.0))]).earned
    assert kept is not None
    assert kept.sum(1).tolist() == [0, 0.5]


@pytest.mark.parametrize("place", [(0, 0), (0, 4), (1, 0), (0, 99), (0, -1)])
def test_a_process_reward_off_the_sampled_tokens_is_refused(place: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"process reward on token {place[1]} of"):
        Batch.of([together(play([0, 0], Reward(1.0, at=((*place, 1.0),))))])


def test_a_turn_begins_in_the_state_that_the_turn_before_led_to() -> None:
    first = together(play([0] * 3, 1.0, ["a", "b", "c"]), play([0] * 3, 1.0, ["b", "", "b"]))
    batch = Batch.of([first, together(play([0, 0], 0.0, ["a", "a"]))])
    assert batch.anchor is not None
    seen = [by_turn(batch.anchor, batch, row) for row in range(3)]
    a, b, other = seen[0][1], seen[0][2], seen[2][1]
    assert seen == [[-1, a, b], [-1, b, -1], [-1, other]]
    assert len({a, b, other, -1.0}) == 4


def test_new_columns_follow_their_rows() -> None:
    batch = Batch.of([together(play([0.5, 1.0], 1.0, ["a", "b"]), play([2.0], 0.0))])
    risky = Reward(0.0, costs={"risk": 3.0})
    costly = Batch.of([together(play([0.0], 1.0), play([0.0], risky))])
    assert costly.costs["risk"].isnan().tolist() == [True, False]
    flipped = costly.rows(torch.tensor([1, 0])).to(torch.device("cpu"))
    assert flipped.costs["risk"].nan_to_num(-1).tolist() == [3.0, -1.0]
    one = batch.rows(torch.tensor([1]))
    assert one.turn.tolist() == [[-1, -1, 0, 0, -1]]
    assert one.earned is not None
    assert one.earned.tolist() == [[0, 0, 0, 2.0, 0]]


# Pure functions.


def test_turn_gae_golden() -> None:
    """objectives.md 4.9: the third is no turn, and is stepped over."""
    rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.1, 0.2, 0.4])
    ids, number = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 3])
    got, returns = credit.turn_gae(rewards, values, ids, number, 1.0, 0.95)
    torch.testing.assert_close(got, torch.tensor([0.8315, 0.77, 0.6]))
    torch.testing.assert_close(returns, got + values)


def test_turn_gae_is_its_definition_whatever_the_order() -> None:
    draw = np.random.default_rng(0)
    lengths = [3, 1, 5]
    plays = [(draw.normal(size=n), draw.normal(size=n)) for n in lengths]
    want = []
    for r, v in plays:
        after = [*v[1:], 0.0]
        delta = [r[i] + 0.9 * after[i] - v[i] for i in range(len(r))]
        want += [
            sum((0.9 * 0.7) ** (j - i) * delta[j] for j in range(i, len(r))) for i in range(len(r))
        ]
    ids = torch.tensor([7] * 3 + [2] + [5] * 5)
    number = torch.tensor([*range(3), 0, *range(5)])
    r, v = (torch.tensor(np.concatenate([p[i] for p in plays])) for i in (0, 1))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    got, _ = credit.turn_gae(r[order], v[order], ids[order], number[order], 0.9, 0.7)
    torch.testing.assert_close(got, torch.tensor(want)[order])
    whole = credit.to_go(r, ids, number)
    torch.testing.assert_close(whole[:3], torch.tensor(np.cumsum(plays[0][0][::-1])[::-1].copy()))
    torch.testing.assert_close(whole + credit.before(r, ids, number), whole[[0, 0, 0, 3, *[4] * 5]])


# Around other algorithms.

PLAIN = [GRPO(), GRPO(scale="batch"), DrGRPO(), CISPO(), GSPO(), RLOO(), Reinforce()]
PLAIN += [GRPO(zero_variance="drop"), RLOO(kl=KL(0.1, "k1", "reward"))]


@pytest.mark.parametrize("plain", PLAIN, ids=repr)
@pytest.mark.parametrize("named", [False, True])
def test_single_turns_are_bitwise_the_plain_algorithm(plain, named) -> None:
    draw = np.random.default_rng(1)
    groups = [
        together(
            *(
                play([float(draw.random())], float(draw.random()), ["end"] if named else [])
                for _ in range(4)
            )
        )
        for _ in range(3)
    ]
    groups.append(group([1.0, invalid(3.0), 0.5], [[4, 5], [6], [7, 8, 9]]))
    batch = Batch.of(groups, plain.start())
    batch = batch.rows(torch.randperm(len(batch), generator=torch.Generator().manual_seed(2)))
    old = torch.where(batch.trained, -torch.rand(batch.tokens.shape), 0.0)
    batch = replace(batch, old_logprobs=old, ref_logprobs=old * 0.9)
    want = plain.advantages(batch)
    assert (want != 0).any()
    for around in (Turns(plain), GiGPO(plain)):
        assert torch.equal(around.advantages(batch), want)
        filled = replace(batch, advantages=want)
        assert torch.equal(around.weights(filled), plain.weights(filled))
        ours, theirs = (a.loss(Outputs(old), filled)[0] for a in (around, plain))
        assert torch.equal(ours, theirs)


def test_reward_to_go_by_hand() -> None:
    # Totals 1.5, 0.5 and 0; first turns earned 1, 0.5 and 0. To go: 1.5 and 0.5, 0.5 and 0, 0.
    batch = Batch.of([together(play([1.0, 0.0], 1.5), play([0.5, 0.0], 0.5), play([0.0], 0.0))])
    got = Turns(GRPO(scale="none")).advantages(batch)
    mean = 2 / 3
    assert by_turn(got, batch, 0) == pytest.approx([1.5 - mean, 0.25])
    assert by_turn(got, batch, 1) == pytest.approx([0.5 - mean, -0.25])
    assert by_turn(got, batch, 2) == pytest.approx([-mean])
    assert (got[~batch.trained] == 0).all()


def test_a_batch_is_whitened_over_each_token_once() -> None:
    """Longer plays are there once for each of their turns."""
    totals = [([1.0, 0.0, 0.0], 1.5), ([0.5, 0.0], 0.5), ([0.0], 0.25)]
    batch = Batch.of([together(*(play(earned, total) for earned, total in totals))])
    to_go = [[1.5, 0.5, 0.5], [0.5, 0.0], [0.25]]
    tokens = np.repeat([value for own in to_go for value in own], 2)
    got = Turns(ReinforcePP()).advantages(batch)
    for row, own in enumerate(to_go):
        want = (np.array(own) - tokens.mean()) / tokens.std(ddof=1)
        assert by_turn(got, batch, row) == pytest.approx(want.tolist(), abs=1e-5)


def test_a_turn_whose_state_has_no_name_is_no_part_of_a_whitened_batch() -> None:
    states = (["a", "b"], ["a", ""], ["", "b"])
    plays = (play([0.0, 0.0], total, s) for total, s in zip((1.0, 0.5, 0.0), states, strict=True))
    batch = Batch.of([together(*plays)])
    for plain in (ReinforcePP(), ReinforcePP(scale="none")):
        more = GiGPO(plain, discount=1.0).advantages(batch) - plain.advantages(batch)
        assert (by_turn(more, batch, 2)) == [0.0, 0.0]
        assert [by_turn(more, batch, row)[0] for row in (0, 1)] == [0.0, 0.0]
        last = [by_turn(more, batch, row)[1] for row in (0, 1)]
        want = [1.0, 0.5] if plain.scale == "none" else [math.sqrt(3) / 2, -math.sqrt(3) / 2]
        assert last == pytest.approx(want, abs=1e-5)


def twin(rewards: np.ndarray, keys: Sequence[object]) -> np.ndarray:
    """GRPO's advantages, written again: over members with an equal key."""
    out = np.zeros(len(rewards))
    for i, key in enumerate(keys):
        own = np.array([r for r, k in zip(rewards, keys, strict=True) if k == key])
        if len(own) > 1:
            out[i] = (rewards[i] - own.mean()) / (own.std(ddof=1) + 1e-6)
    return out


@pytest.mark.parametrize("seed", [0, 1])
def test_gigpo_is_its_definition(seed: int) -> None:
    draw = np.random.default_rng(seed)
    plays = []
    for _ in range(6):
        n = int(draw.integers(1, 5))
        earned = draw.integers(0, 3, n).astype(float)
        rest = float(draw.integers(0, 2))
        states = [str(s) for s in draw.choice(["a", "b", "c"], n)]
        plays.append((earned, float(earned.sum()) + rest, rest, states))
    batch = Batch.of([together(*(play(e.tolist(), t, s) for e, t, _, s in plays))])
    whole = twin(np.array([t for _, t, _, _ in plays]), ["all"] * 6)
    returns, keys, owner = [], [], []
    for i, (earned, _, rest, states) in enumerate(plays):
        paid = earned.copy()
        paid[-1] += rest
        for k in range(len(paid)):
            returns.append(sum(0.8 ** (j - k) * paid[j] for j in range(k, len(paid))))
            keys.append(states[k - 1] if k else (i, "first"))
            owner.append(i)
    steps = twin(np.array(returns), keys)
    got = GiGPO(GRPO(), step=0.5, discount=0.8).advantages(batch)
    for i in range(6):
        want = [whole[i] + 0.5 * s for s, o in zip(steps, owner, strict=True) if o == i]
        assert by_turn(got, batch, i) == pytest.approx(want, abs=1e-5)


def test_groups_with_a_signal_of_their_turns_are_kept() -> None:
    plain = GRPO(zero_variance="resample")
    equal, earning = together(play([0, 0], 1.0), play([0, 0], 1.0)), play([0.5, 0], 1.0)
    assert not Turns(plain).keep(equal)
    assert Turns(plain).keep(together(play([0, 0], 1.0), earning))
    assert not GiGPO(plain).keep(equal)
    assert GiGPO(plain).keep(together(play([0, 0], 1.0, ["a", "b"]), play([0], 1.0, ["a"])))
    assert not GiGPO(plain).keep(together(play([0, 0], 0.0, ["a", "b"]), play([0], 0.0, ["a"])))


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (PPO(), "of has a critic"),
        (IQL(), "of has a critic"),
        (DPO(), "of takes answers of any policy"),
        (KTO(), "of takes answers of any policy"),
        (Distill("t"), "of learns from a teacher"),
    ],
    ids=repr,
)
def test_what_is_no_policy_gradient_is_refused_inside(of, said) -> None:
    for around in (Turns, GiGPO, partial(Distill, "t")):
        with pytest.raises(ValueError, match=said):
            around(of=of)


def test_imitation_is_weighed_turn_by_turn_but_nothing_is_added_to_its_weights() -> None:
    batch = Batch.of([together(play([1.0, 0.0], 1.0), play([0.0, 1.0], 1.0))])
    got = Turns(AWR(beta=1.0)).advantages(batch)
    mean = 0.5  # of both second turns' rewards to go
    assert by_turn(got, batch, 0) == pytest.approx([1.0, math.exp(0 - mean)])
    assert by_turn(got, batch, 1) == pytest.approx([1.0, math.exp(1 - mean)])
    for around in (GiGPO, partial(Distill, "t")):
        with pytest.raises(ValueError, match="of takes answers of any policy"):
            around(of=AWR())


# What it is good for: a chain of turns of which each is right or wrong by itself.

TURNS, CHOICES = 8, 4


def locks(
    table: torch.Tensor, draw: torch.Generator, members: int
) -> tuple[Group, list[list[int]]]:
    """Plays of a table [turn choice]: choice 0 of each turn earns 1 / TURNS."""
    chances, plays, said = table.detach().softmax(1), [], []
    for member in range(members):
        chosen = [int(torch.multinomial(c, 1, generator=draw)) for c in chances]
        earned = [(c == 0) / TURNS for c in chosen]
        states = [str(k + 1) for k in range(TURNS)]
        plays.append(play(earned, sum(earned), states, member, words=1))
        said.append(chosen)
    return together(*plays), said


def gradient(algorithm, table: torch.Tensor, draw: torch.Generator, members: int) -> torch.Tensor:
    """Of one group, through the algorithm's own advantages, weights and loss."""
    played, said = locks(table, draw, members)
    batch = Batch.of([played], algorithm.start())
    logs = table.log_softmax(1)[torch.arange(TURNS), torch.tensor(said)]
    now = torch.zeros(batch.tokens.shape).masked_scatter(batch.trained, logs.flatten())
    batch = replace(batch, old_logprobs=now.detach(), advantages=algorithm.advantages(batch))
    loss, _ = algorithm.loss(Outputs(now), batch)
    (grad,) = torch.autograd.grad((loss * algorithm.weights(batch)).sum(), table)
    return -grad * TURNS


def test_turn_credit_has_the_same_gradient_with_less_noise() -> None:
    """The exact gradient is known; with ``TURNS`` turns others' luck is most of a trajectory's."""
    table = torch.zeros(TURNS, CHOICES, requires_grad=True)
    table.data[:, 0] = torch.linspace(-1, 1, TURNS)
    chances = table.detach().softmax(1)
    exact = chances * (torch.eye(CHOICES)[0] - chances[:, :1]) / TURNS
    noise = {}
    gigpo = GiGPO(RLOO(), discount=0.0)
    for name, of in (("turns", Turns(RLOO())), ("plain", RLOO()), ("gigpo", gigpo)):
        draw = torch.Generator().manual_seed(0)
        seen = torch.stack([gradient(of, table, draw, 8) for _ in range(150)])
        if name != "gigpo":  # a discount, and both levels at once, are another objective
            cosine = torch.cosine_similarity(seen.mean(0).flatten(), exact.flatten(), dim=0)
            assert cosine > (0.98 if name == "turns" else 0.9)
        noise[name] = float(seen.var(0).sum() / seen.mean(0).square().sum())
    assert noise["turns"] < 0.7 * noise["plain"]
    assert noise["gigpo"] < noise["plain"]


def test_turn_credit_learns_what_trajectory_credit_does_not_in_as_many_steps() -> None:
    """Groups of two and long steps, of which noise goes the wrong way."""

    def learned(algorithm, seed: int) -> float:
        table = torch.zeros(TURNS, CHOICES, requires_grad=True)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(40):
            table.data += 10.0 * gradient(algorithm, table, draw, 2)
        return float(table.detach().softmax(1)[:, 0].mean())

    by_turn, by_trajectory = (
        np.mean([learned(of, seed) for seed in range(5)]) for of in (Turns(RLOO()), RLOO())
    )
    assert by_turn > by_trajectory + 0.05


def test_what_an_env_says_of_a_turn_reaches_the_batch() -> None:
    """Played by the rollout's own code: two turns, of which the env comments the first."""
    env = Dialogue([Reply((user("go on"),), reward=0.25, state="half way")])
    made, _ = player(env, ["no", "yes", "yes", "no"])
    batch = Batch.of([asyncio.run(made.group(asked(), 0, 2, 0, "train"))])
    assert batch.earned is not None
    assert batch.anchor is not None
    assert by_turn(batch.turn, batch, 0) == [0, 1]
    assert batch.earned.sum(1).tolist() == [0.25, 0.25]
    assert ((batch.earned != 0).sum(1) == 1).all()
    assert by_turn(batch.anchor, batch, 0) == by_turn(batch.anchor, batch, 1) == [-1, 0]
    assert costs.of(batch, "turns").tolist() == [2.0, 2.0]
    # Totals of 1 and 0, earned alike up to there: the difference is the second turn's, too.
    got = Turns(GRPO(scale="none")).advantages(batch)
    assert sorted(by_turn(got, batch, row) for row in range(2)) == [[-0.5, -0.5], [0.5, 0.5]]
