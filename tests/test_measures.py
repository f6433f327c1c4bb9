"""What a step says of entropy and of different answers: by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from records import group, problem, segment, trajectory
from upslope.measures import rollout_metrics
from upslope.types import Group, Reward


def saying(name: str, answer: str, texts: list[str], graded: str = "") -> Group:
    of = problem(name, answer=answer)
    rewards = [Reward(0.0, answer=graded) for _ in texts]
    plays = [
        trajectory(of, [segment([4])], r, m, text=t)
        for m, (t, r) in enumerate(zip(texts, rewards, strict=True))
    ]
    return Group(of, tuple(plays))


def test_answers_are_the_graders_or_what_was_said() -> None:
    groups = [saying("a", "7", ["7", "8", "7"]), saying("b", "9", ["so 7", "it is 7"], "7")]
    metrics = rollout_metrics(groups, 0)
    assert metrics["answers/distinct_share"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["answers/common_share"] == pytest.approx(4 / 5)
    assert metrics["answers/gold_share"] == 1 / 2
    same = rollout_metrics([saying("a", "7", ["1"]), saying("b", "7", ["2"])], 0)
    assert same["answers/gold_share"] == 1


def test_recorded_groups_are_not_what_the_policy_does() -> None:
    own, shown = group([1.0, 0.0]), group([1.0, 1.0], id="b")
    metrics = rollout_metrics([own, shown], 0, {"groups/recorded": 1.0})
    assert metrics["reward/mean"] == rollout_metrics([own], 0)["reward/mean"] == 0.5
    assert (metrics["groups/used"], metrics["groups/recorded"]) == (2, 1)
    alone = rollout_metrics([shown], 0, {"groups/recorded": 1.0})
    assert (alone["reward/mean"], alone["groups/used"]) == (1, 1)


def test_entropy_is_the_mean_surprise_of_sampled_tokens_alone() -> None:
    of = problem()
    plays = [
        trajectory(of, [segment([4, 5], logprobs=[-1.0, -3.0])], 1.0),
        trajectory(of, [segment([4], logprobs=[-0.5])], 0.25, 1),
    ]
    metrics = rollout_metrics([Group(of, tuple(plays))], 0)
    assert metrics["entropy/sampled"] == pytest.approx(1.5)
    assert (metrics["reward/max"], metrics["reward/min"]) == (1.0, 0.25)
    shown = replace(segment([4]), engine_logprobs=np.full(4, np.nan, dtype=np.float32))
    recorded = Group(of, (trajectory(of, [shown], 1.0),))
    assert "entropy/sampled" not in rollout_metrics([recorded], 0)
    assert rollout_metrics([group([1.0, 0.0])], 0)["entropy/sampled"] == 1


def test_how_tools_were_called_by_hand() -> None:
    calls = [{"name": "a", "error": ""}, {"name": "a", "error": "no"}, {"name": "b", "error": ""}]
    facts = [
        {"calls": calls, "turns": 4, "malformed": 1, "tolerated": 2, "spent": True},
        {"calls": [], "turns": 2, "malformed": 0, "tolerated": 0, "spent": False},
    ]
    plain = group([1.0, 0.0])
    plays = tuple(replace(t, facts=own) for t, own in zip(plain.trajectories, facts, strict=True))
    seen = rollout_metrics([replace(plain, trajectories=plays)], 0)
    assert {name: value for name, value in seen.items() if name.startswith("tools/")} == {
        "tools/calls": 1.5,
        "tools/turns": 3.0,
        "tools/malformed_share": pytest.approx(1 / 6),
        "tools/tolerated_share": pytest.approx(1 / 3),
        "tools/spent_share": 0.5,
        "tools/error_share": pytest.approx(1 / 3),
    }
    assert not any(name.startswith("tools/") for name in rollout_metrics([plain], 0))
