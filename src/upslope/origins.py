"""A stage's source from its settings: rollouts, recorded plays, or a mix of both.

And whether a model has room for what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from upslope.chat import Chat
from upslope.curriculum import Curriculum
from upslope.demonstrations import Demonstration
from upslope.mixed import Mixed
from upslope.provenance import RecordedSettings, RolloutsSettings
from upslope.recite import recited
from upslope.rollout import Player
from upslope.sources import Recorded, Rollouts
from upslope.stages import Built
from upslope.types import Group, Source, UserError


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
            ahead=settings.ahead,
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


def refuse_longer(shown: Sequence[Demonstration], chat: Chat, model: str, context: int) -> None:
    """Recorded plays that a model of this context has no room for, with their prompts."""
    for one in shown:
        # Tokenising 100,000 plays takes a minute or more, and most are so short that tokens of a
        # byte each would fit.
        if not one.segments and _bytes(one, chat) <= context:
            continue
        tokens = max(len(segment.tokens) for segment in recited(chat, one, 0, 0).segments)
        if tokens > context:
            raise UserError(
                f"the recorded play of problem {one.problem.id!r} has {tokens} tokens with its "
                f"prompt, which is longer than {model}'s context of {context}: leave it out, or "
                "choose another model"
            )


def _bytes(one: Demonstration, chat: Chat) -> int:
    """No less than the tokens of a play's words: a token is of a byte of the text, or of more.

    Not of a character, of which tokens of bytes take up to four. Beside the text there may be a
    token at either end of each message.
    """
    said = one.said or ({"role": "assistant", "content": one.reply},)
    dialogue = [*chat.messages(one.problem), *said]
    last = max(i for i, message in enumerate(dialogue) if message["role"] == "assistant")
    text = chat.text(dialogue[:last]) + str(dialogue[last]["content"])
    stop = "".join(one.problem.stop[:1])
    ends = len(dialogue) * (2 + len(stop.encode()))
    return len(text.encode("utf-8", "surrogatepass")) + ends
