"""A stage's source from its settings: rollouts, recorded plays, or a mix of both."""

from __future__ import annotations

from collections.abc import Callable

from upslope.chat import Chat
from upslope.curriculum import Curriculum
from upslope.mixed import Mixed
from upslope.provenance import RecordedSettings, RolloutsSettings
from upslope.rollout import Player
from upslope.sources import Recorded, Rollouts
from upslope.stages import Built
from upslope.types import Group, Source


def source_of(
    one: Built, player: Player, chat: Chat, seed: int, finished: Callable[[Group], None]
) -> Source:
    """``finished`` is told of every group that was played, used or not."""

    def rollouts(settings: RolloutsSettings) -> Rollouts:
        rollout = one.stage.rollout
        return Rollouts(
            player,
            Curriculum(one.problems("train"), seed, one.weights, settings.retire, settings.window),
            size=rollout.group,
            seed=seed,
            max_staleness=rollout.max_staleness,
            tries=rollout.tries,
            sync=settings.sync,
            finished=finished,
            heat=settings.heat,
        )

    settings = one.source
    if isinstance(settings, RolloutsSettings):
        return rollouts(settings)
    recorded = Recorded(one.recorded(), chat, seed)
    if isinstance(settings, RecordedSettings):
        return recorded
    last = settings.last if settings.over else settings.share
    return Mixed(rollouts(settings.rollouts), recorded, (settings.share, last), settings.over)
