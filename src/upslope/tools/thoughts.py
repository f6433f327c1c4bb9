"""What a reply says after its thinking, which no form reads."""

from __future__ import annotations

END = "</think>"


def unthought(reply: str) -> str:
    """The reply after the last end of thinking; all of it where there is none."""
    return reply.rpartition(END)[2]
