"""Dialogues written as one text, as hh-rlhf has them: each turn after a blank line and who speaks.

Reads text; which rows there are is in ``gathered``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from upslope.types import Message

TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
SPEAKERS = {role: speaker for speaker, role in ROLES.items()}
BEGINS = "\n\nHuman:"


def is_transcript(text: object) -> bool:
    """Whether a field is such a dialogue."""
    return isinstance(text, str) and text.startswith(BEGINS)


def messages_of(text: str) -> list[Message]:
    """Its turns, without the white space around them; one who speaks twice has one turn."""
    found: list[dict[str, str]] = []
    _, *parts = TURN.split(text)
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role = ROLES[speaker]
        if found and found[-1]["role"] == role:
            found[-1]["content"] = f"{found[-1]['content']}\n\n{said.strip()}".strip()
        else:
            found.append({"role": role, "content": said.strip()})
    return [*found]


def transcript_of(dialogue: Sequence[Message]) -> str:
    """Messages as such a text; "" for a dialogue that would be read back as another."""
    if any(message["role"] not in SPEAKERS for message in dialogue):
        return ""
    turns = [f"\n\n{SPEAKERS[m['role']]}: {m['content']}" for m in dialogue]
    text = "".join(turns)
    same = is_transcript(text) and messages_of(text) == [dict(m) for m in dialogue]
    return text if same else ""
