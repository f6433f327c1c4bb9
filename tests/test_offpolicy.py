"""Off-policy evaluation: by hand, unbiased on a policy whose value is known, honest intervals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learners import plain, policy
from records import group, problem, segment, trajectory
from upslope.exam import Choices, evaluate_model
from upslope.hindsight import evaluate_recorded, replays
from upslope.models.policy import Policy
from upslope.offpolicy import LEAST, Replay, hindsight
from upslope.types import Group, Turn, UserError

# Two turns of two actions: the policy that records, and the one asked about.
MU = (0.5, 0.4)
PI = (0.7, 0.6)
REWARDS = ((0.2, 0.0), (1.0, 0.3))  # of the first turn's actions, and of the second's
VALUE = sum(p * r[0] + (1 - p) * r[1] for p, r in zip(PI, REWARDS, strict=True))


def plays(draw: np.random.Generator, problems: int, each: int = 2) -> list[Replay]:
    found = []
    for name, _ in itertools.product(range(problems), range(each)):
        so_far, ratios, rewards = 0.0, [], []
        for p, q, earned in zip(MU, PI, REWARDS, strict=True):
            first = draw.random() < p
            so_far += float(np.log(q / p if first else (1 - q) / (1 - p)))
            ratios.append(so_far)
            rewards.append(earned[0 if first else 1])
        found.append(Replay(str(name), tuple(ratios), tuple(rewards)))
    return found


def test_by_hand():
    # Plays of two problems; ratios 2 and 0.5 of the first, 1 of the second.
    made = [Replay("a", (np.log(2.0),), (1.0,)), Replay("a", (np.log(0.5),), (0.0,))]
    made += [Replay("b", (0.0,), (0.5,))]
    seen = hindsight(made * 20)
    assert (seen.plays, seen.problems) == (60, 2)
    assert seen.recorded.mean == pytest.approx((0.5 + 0.5) / 2)
    assert seen.ordinary.mean == pytest.approx(((2 * 1 + 0) / 2 + 0.5) / 2)
    assert seen.weighted.mean == pytest.approx((1 + 0.5) / (1 + 0.25 + 1))
    weights = np.array([1, 0.25, 1] * 20)
    assert seen.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert seen.largest == pytest.approx(1 / weights.sum())
    assert seen.per_decision == seen.ordinary  # one turn


def test_the_estimates_are_right_on_average_and_the_intervals_honest():
    draw, runs = np.random.default_rng(0), 400
    seen = [hindsight(plays(draw, 100)) for _ in range(runs)]
    for kind in ("ordinary", "weighted", "per_decision"):
        found = [getattr(one, kind) for one in seen]
        means = np.array([one.mean for one in found])
        off = abs(means.mean() - VALUE) / (means.std() / runs**0.5)
        assert off < 3.5, kind
        held = np.mean([one.low <= VALUE <= one.high for one in found])
        assert 0.92 <= held <= 0.98, kind
    # What each is for: less spread.
    spread = {k: np.std([getattr(s, k).mean for s in seen]) for k in ("ordinary", "per_decision")}
    assert spread["per_decision"] < spread["ordinary"]
    assert abs(np.mean([s.recorded.mean for s in seen]) - VALUE) > 0.1  # a naive mean is wrong


def test_one_policy_asked_about_itself_is_the_plain_mean():
    made = [Replay(str(i), (0.0, 0.0), (0.0, float(i % 2))) for i in range(40)]
    seen = hindsight(made)
    assert seen.ordinary == seen.weighted == seen.per_decision == seen.recorded
    assert seen.effective == pytest.approx(40)


def test_plays_that_say_too_little_are_refused():
    far = [Replay(str(i), (0.0 if i else 20.0,), (1.0,)) for i in range(500)]
    with pytest.raises(UserError, match=r"500 recorded plays are worth 1\.0 of this policy's own"):
        hindsight(far)
    with pytest.raises(UserError, match=f"fewer than {LEAST:g} say nothing"):
        hindsight([Replay(str(i), (0.0,), (1.0,)) for i in range(int(LEAST) - 1)])


def test_plays_of_one_problem_have_no_interval() -> None:
    plays = [Replay("a", (0.0,), (float(i % 2),)) for i in range(60)]
    with pytest.raises(UserError, match=r"of one problem, 'a', and an interval .* at least two"):
        hindsight(plays)
    others = [replace(play, problem="b") for play in plays]
    assert hindsight([*plays, *others]).problems == 2


def test_ratios_of_a_model_by_turns():
    """Two segments, the first of two turns; engine log-probabilities are -1 a token."""
    of = problem("dialogue")
    play = trajectory(of, [segment([4, 5, 6]), segment([7], [1, 2])], 1.0)
    turns = (Turn(0, 3, 4, "stop", 1.0, 0.25), Turn(0, 4, 6, "stop", 1.0), Turn(1, 2, 3, "stop"))
    play = type(play)(of, 0, 0, play.segments, turns, play.messages, play.reward)
    short = group([0.5], id="short")
    asked = policy()
    double, single = replays(asked, [Group(of, (play,)), short])
    logprobs = of_model(asked, [1, 2, 3, 4, 5, 6], 3), of_model(asked, [1, 2, 7], 2)
    said = np.cumsum([logprobs[0][0], sum(logprobs[0][1:]), logprobs[1][0]])
    want = said + np.array([1, 3, 4])
    assert double.ratios == pytest.approx(want.tolist(), abs=1e-5)
    assert double.rewards == (0.25, 0.0, 0.75)
    alone = sum(of_model(asked, [1, 2, 3, 4, 5], 3)) + 2
    assert single.ratios == pytest.approx([alone], abs=1e-5)
    assert single.rewards == (0.5,)


def test_an_interrupted_reply_is_one_turn() -> None:
    """What it earned is weighed by the ratio up to the end of all of it."""
    of = problem("dialogue")
    play = trajectory(of, [segment([4, 5, 6])], 1.0)
    turns = (
        Turn(0, 3, 4, "interrupted", 1.0, 0.25),
        Turn(0, 4, 5, "stop"),
        Turn(0, 5, 6, "stop"),
    )
    play = type(play)(of, 0, 0, play.segments, turns, play.messages, play.reward)
    asked = policy()
    (seen,) = replays(asked, [Group(of, (play,))])
    said = np.cumsum(of_model(asked, [1, 2, 3, 4, 5, 6], 3)) + np.array([1, 2, 3])
    assert seen.ratios == pytest.approx(said[1:].tolist(), abs=1e-5)
    assert seen.rewards == (0.25, 0.75)


def of_model(asked: Policy, tokens: list[int], first: int) -> list[float]:
    """Log-probabilities of the tokens from ``first`` on, by transformers."""
    with torch.no_grad():
        logits = plain(asked)(torch.tensor([tokens])).logits[0]
    said = logits.log_softmax(-1)
    return [float(said[i - 1, tokens[i]]) for i in range(first, len(tokens))]


def test_recorded_by_a_model_and_judged_for_it(tmp_path: Path) -> None:
    """A model judged by its own plays earns what these earned, to rounding."""
    path = tmp_path / "logs.jsonl"
    choices = Choices(problems=20, samples=2, split="train", max_tokens=3, record=str(path))
    evaluate_model("ladder:0.1m", "arithmetic", ["digits=1"], choices)
    lines = evaluate_recorded("ladder:0.1m", str(path))
    assert lines[0].startswith("ladder:0.1m by 40 plays of 20 problems")
    figures = {line.split("  ")[1].strip(): line.split()[-4:] for line in lines[1:5]}
    assert figures["ordinary"] == figures["weighted"] == figures["per decision"]
    assert "worth 40.0 of its own (100.0%)" in lines[-1]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"prompt": "1+1=", "reply": "2"}', "does not say how likely it was"),
        ('{"prompt": "1+1="}', '"reply" must be a non-empty string'),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path: Path, row: str, says: str) -> None:
    path = tmp_path / "logs.jsonl"
    path.write_text(row)
    with pytest.raises(UserError, match=says):
        evaluate_recorded("ladder:0.1m", str(path))
    (tmp_path / "trajectories").mkdir()
    with pytest.raises(UserError, match="keeps no log-probabilities"):
        evaluate_recorded("ladder:0.1m", str(tmp_path))


def test_recording_needs_samples_and_a_folder(tmp_path: Path) -> None:
    for choices, says in (
        (Choices(samples=0, record=str(tmp_path / "x")), "--samples 0 takes none"),
        (Choices(record=str(tmp_path / "none" / "x")), "there is no folder .* for --record"),
        (Choices(split="dev"), "--split is validation or test, not dev"),
    ):
        with pytest.raises(UserError, match=says):
            evaluate_model("ladder:0.1m", "arithmetic", ["digits=1"], choices)
