"""A reply, or a recorded play, as a trajectory: what was said is trained, all else is context.

Which plays there are is read in ``demonstrations.py``, and groups of them are made in
``sources.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from upslope.chat import Chat
from upslope.demonstrations import Demonstration
from upslope.dialogues import Dialogue, recorded
from upslope.segments import Rows
from upslope.types import Completion, Message, Problem, Segment, Trajectory, Turn


def spoken(
    chat: Chat, problem: Problem, reply: str, visit: int = 0, version: int = 0, cut: bool = False
) -> Trajectory:
    """A trajectory in which a given reply was said; its tokens are trained.

    ``cut``: nothing ends it.
    """
    messages = chat.messages(problem)
    prompt = chat.encode(messages)
    tokens = [*prompt, *chat.reply(reply, ("",) if cut else problem.stop)]
    trained = np.arange(len(tokens)) >= len(prompt)
    segment = Segment(
        np.array(tokens, dtype=np.int32),
        trained,
        np.where(trained, np.nan, 0.0).astype(np.float32),
        np.where(trained, version, -1).astype(np.int32),
    )
    turn = Turn(0, len(prompt), len(tokens), "length" if cut else "stop")
    said = {"role": "assistant", "content": reply}
    return Trajectory(problem, visit, 0, (segment,), (turn,), (*messages, said))


def recited(chat: Chat, shown: Demonstration, visit: int, version: int) -> Trajectory:
    """A recorded play as a trajectory: its own tokens, or its words in the chat's."""
    problem = shown.problem
    messages = chat.messages(problem)
    if shown.segments:
        segments = tuple(
            replace(s, versions=np.where(s.trained, version, -1)) for s in shown.segments
        )
        said = shown.said or ({"role": "assistant", "content": shown.reply},)
        return Trajectory(problem, visit, 0, segments, shown.turns, (*messages, *said))
    if not shown.said:
        return spoken(chat, problem, shown.reply, visit, version, shown.cut)
    rows, past = Rows(chat.encode(messages)), list(messages)
    for place, message in enumerate(shown.said):
        if message["role"] == "assistant":
            if place:
                _answered(chat, rows, past)
            last = shown.cut and message is shown.said[-1]
            tokens = chat.reply(message["content"], ("",) if last else problem.stop)
            blank = np.full(len(tokens), np.nan, dtype=np.float32)
            versions = np.full(len(tokens), version, dtype=np.int32)
            rows.sampled(Completion(np.array(tokens), blank, versions, "stop"), 1.0)
        past.append(message)
    if shown.cut:
        rows.ended("length")
    return Trajectory(problem, visit, 0, tuple(rows.closed()), tuple(rows.turns), tuple(past))


def acted(chat: Chat, dialogue: Dialogue) -> Trajectory:
    """A whole dialogue as a trajectory: a segment from each rewriting of the past to the next."""
    segments, turns, earned = list[Segment](), list[Turn](), iter(dialogue.earned)
    for part in dialogue.parts:
        play = recited(chat, recorded(*part), 0, 0)
        first = len(segments)
        turns += [replace(t, segment=first + t.segment, reward=next(earned)) for t in play.turns]
        segments += play.segments
    return Trajectory(
        dialogue.problem,
        0,
        0,
        tuple(segments),
        tuple(turns),
        dialogue.messages,
        facts=dialogue.facts,
    )


def _answered(chat: Chat, rows: Rows, past: Sequence[Message]) -> None:
    """What came between two turns, in this segment or, where the past was rewritten, a new one."""
    longer = chat.extend(rows.tokens, past)
    if longer is None:
        rows.rewritten(chat.encode(past))
    else:
        rows.extended(longer)
