"""``upslope eval --recorded``: what a model would earn, by plays that another one recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from upslope.batch import Batch
from upslope.chat import Chat
from upslope.demonstrations import read_demonstrations
from upslope.devices import fitting_tokens
from upslope.estimates import Interval
from upslope.learner import Learner
from upslope.models.flops import activation_bytes
from upslope.models.policy import Policy
from upslope.offpolicy import Hindsight, Replay, hindsight
from upslope.origins import refuse_longer
from upslope.settings import Learner as LearnerSettings
from upslope.sources import Recorded
from upslope.trial import opened
from upslope.turns import replies
from upslope.types import Group, UserError, graded


def evaluate_recorded(model: str, path: str) -> list[str]:
    """Off-policy estimates of its mean reward, in words."""
    file = Path(path).expanduser()
    if (file / "trajectories").is_dir():
        raise UserError(
            f"{path} keeps no log-probabilities: record plays by upslope eval {path} --record FILE"
        )
    shown = read_demonstrations(file)
    unscored = next((one for one in shown if not one.scored), None)
    if unscored:
        raise UserError(
            f"{path}: the play of problem {unscored.problem.id!r} does not say how likely it was: "
            'give each segment "logprobs", or record by upslope eval MODEL --record FILE'
        )
    policy, _ = opened(model)
    chat = Chat(policy.tokenizer, policy.eos)
    refuse_longer(shown, chat, model, policy.context)
    recorded = Recorded(shown, chat, 0)
    return lines(model, path, hindsight([*replays(policy, recorded.all())]))


def replays(policy: Policy, groups: Sequence[Group]) -> Iterator[Replay]:
    """Every play as the policy sees it; all its turns' rewards are parts of its total."""
    budget = fitting_tokens(str(policy.model.device), activation_bytes(policy.model.config))
    settings = LearnerSettings(micro_tokens=budget)
    learner = Learner(policy, settings, lambda phase, flops, tokens: None)
    batch = learner.fill(Batch.of(groups), ["old_logprobs"])
    assert batch.old_logprobs is not None
    apart = torch.where(batch.trained, batch.old_logprobs - batch.engine_logprobs, 0.0).double()
    rows = iter(apart.numpy())
    for t in (t for group in groups for t in group.trajectories):
        so_far, ratios, earned = 0.0, dict[int, float](), dict[int, float]()
        for at, segment in enumerate(t.segments):
            if not segment.trained.any():
                continue
            row = next(rows)
            for number, turn in replies(t):
                if turn.segment == at:
                    so_far += float(row[turn.start : turn.stop].sum())
                    ratios[number] = so_far
                    earned[number] = earned.get(number, 0.0) + turn.reward
        before = [*earned.values()][:-1]
        rewards = (*before, graded(t).total - sum(before))
        yield Replay(t.problem.id, tuple(ratios.values()), rewards)


def lines(model: str, path: str, seen: Hindsight) -> list[str]:
    """The estimates in words."""
    kinds = {
        "as recorded": seen.recorded,
        "ordinary": seen.ordinary,
        "weighted": seen.weighted,
        "per decision": seen.per_decision,
    }
    share = 100 * seen.effective / seen.plays
    return [
        f"{model} by {seen.plays} plays of {seen.problems} problems in {path}, mean reward with "
        "95% intervals:",
        *(f"  {kind:20} {_figure(found)}" for kind, found in kinds.items()),
        f"  the plays are worth {seen.effective:.1f} of its own ({share:.1f}%), and the heaviest "
        f"counts {100 * seen.largest:.1f}%",
    ]


def _figure(seen: Interval) -> str:
    return f"{seen.mean:.3f} ({seen.low:.3f} to {seen.high:.3f})"
