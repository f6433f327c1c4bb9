"""What a step says about itself: metrics of its groups, and of several updates as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from upslope.types import Group, Metrics, Trajectory, graded

NOTHING: Mapping[str, float] = MappingProxyType({})


def rollout_metrics(
    groups: Sequence[Group], version: int, source: Mapping[str, float] = NOTHING
) -> Metrics:
    """Reward, parts, costs, length, signal and staleness of groups trained at ``version``.

    And what the ``source`` says. Of a step from both, the last groups are recorded: these count in
    ``groups/used`` alone, since the others are what the policy does.
    """
    used = len(groups)
    groups = groups[: used - int(source.get("groups/recorded", 0))] or groups
    plays = played(groups)
    rewards = [graded(t) for t in plays]
    valid = [r for r in rewards if r.valid]
    staleness = [version - g.version for g in groups]
    lengths = [t.length for t in plays]
    metrics = {
        "reward/invalid_share": 1 - len(valid) / len(rewards),
        "length/mean": float(np.mean(lengths)),
        "length/max": float(max(lengths)),
        "length/truncated_share": float(np.mean([t.truncated for t in plays])),
        "length/interrupted_share": float(
            np.mean([any(turn.stop_reason == "interrupted" for turn in t.turns) for t in plays])
        ),
        "groups/used": float(used),
        "groups/mixed_share": float(np.mean([g.mixed for g in groups])),
        **surprise(plays),
        **answer_metrics(groups),
        "staleness/max": float(max(staleness)),
        "staleness/mean": float(np.mean(staleness)),
        # Nothing graded is not a reward of 0, but a row without a number helps nobody plot it.
        "reward/mean": float(np.mean([r.total for r in valid])) if valid else 0.0,
        "reward/std": float(np.std([r.total for r in valid])) if valid else 0.0,
        "reward/max": max((r.total for r in valid), default=0.0),
        "reward/min": min((r.total for r in valid), default=0.0),
    }
    for name in sorted({name for r in valid for name in r.parts}):
        metrics[f"reward/part/{name}"] = float(np.mean([r.parts.get(name, 0.0) for r in valid]))
    for name in sorted({name for r in valid for name in r.costs}):
        known = [r.costs[name] for r in valid if name in r.costs]
        metrics[f"reward/cost/{name}"] = float(np.mean(known))
    return metrics | tool_metrics(plays) | env_metrics(groups) | dict(source)


def surprise(plays: Sequence[Trajectory]) -> Metrics:
    """Mean of -log p of what was sampled, as the engine said: an estimate of the entropy at the
    rollouts' temperature. Nothing of recorded tokens, of which no engine said anything."""
    said = [s.engine_logprobs[s.trained] for t in plays for s in t.segments]
    known = np.concatenate([row[~np.isnan(row)] for row in said] or [np.zeros(0, np.float32)])
    return {"entropy/sampled": float(-known.mean())} if len(known) else {}


def answer_metrics(groups: Sequence[Group]) -> Metrics:
    """How many different answers there are in a group, and how common the commonest of all is.

    An answer is what the grader took for it, else the last thing said. ``gold_share``: how common
    the commonest of the problems' own answers is, which no policy should be blamed for.
    """
    said = [[graded(t).answer or t.text for t in g.trajectories] for g in groups]
    each = [answer for answers in said for answer in answers]
    golds = [g.problem.answer or g.problem.solution or g.problem.id for g in groups]
    return {
        "answers/distinct_share": float(np.mean([len(set(one)) / len(one) for one in said])),
        "answers/common_share": max(Counter(each).values()) / len(each),
        "answers/gold_share": max(Counter(golds).values()) / len(golds),
    }


def tool_metrics(plays: Sequence[Trajectory]) -> Metrics:
    """How tools were called, from the facts of plays that call any; nothing where none does."""
    told = [t.facts for t in plays if "malformed" in t.facts and "calls" in t.facts]
    if not told:
        return {}
    calls = [call for facts in told for call in facts["calls"]]
    turns = max(1, sum(facts["turns"] for facts in told))
    metrics = {
        "tools/calls": len(calls) / len(told),
        "tools/turns": turns / len(told),
        "tools/malformed_share": sum(facts["malformed"] for facts in told) / turns,
        "tools/tolerated_share": sum(facts["tolerated"] for facts in told) / turns,
        "tools/spent_share": sum(facts["spent"] for facts in told) / len(told),
    }
    if calls:
        metrics["tools/error_share"] = sum(bool(call["error"]) for call in calls) / len(calls)
    return metrics


def env_metrics(groups: Sequence[Group]) -> Metrics:
    """What each of several envs gave; nothing where there is one."""
    metrics: Metrics = {}
    for env in sorted({g.problem.env for g in groups} - {""}):
        own = [g for g in groups if g.problem.env == env]
        valid = [r for g in own for r in g.rewards if r.valid]
        metrics[f"env/{env}/groups"] = float(len(own))
        metrics[f"env/{env}/mixed_share"] = float(np.mean([g.mixed for g in own]))
        metrics[f"env/{env}/length"] = float(np.mean([t.length for t in played(own)]))
        if valid:
            metrics[f"env/{env}/reward"] = float(np.mean([r.total for r in valid]))
    return metrics


def played(groups: Sequence[Group]) -> list[Trajectory]:
    """All their trajectories, in order."""
    return [t for g in groups for t in g.trajectories]


def changes(metrics: Metrics) -> bool:
    """Whether a step must have changed the weights: it had a gradient, and none was skipped."""
    skipped = metrics["update/skipped"] or metrics["update/spikes"]
    return metrics["update/grad_norm"] > 0 and not skipped


def merged(updates: Sequence[Metrics]) -> Metrics:
    """Metrics of several updates: their mean, and the largest where the name ends in ``max``.

    ``ratio/first`` is the first update's mean ratio, 1 unless its data is stale. Drift is the
    first update's: after it the policy has moved away from what sampled.
    """
    names = dict.fromkeys(name for metrics in updates for name in metrics)
    out: Metrics = {}
    for name in names:
        seen = updates[:1] if name.startswith("drift/") else updates
        values = [m[name] for m in seen if name in m]
        if not values:
            continue
        out[name] = max(values) if name.endswith("/max") else float(np.mean(values))
    if "ratio/mean" in updates[0]:
        out["ratio/first"] = updates[0]["ratio/mean"]
    return out
