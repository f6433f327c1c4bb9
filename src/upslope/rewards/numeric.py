"""Exact whole-number answers."""

from __future__ import annotations

import re

from upslope.types import Reward

NUMBER = re.compile(r"-?\d{1,400}")


def exact_number(text: str, expected: str) -> Reward:
    """1 where the reply is exactly the expected digits, spaces around it aside.

    Parts: ``correct``, and ``format``: whether it is a number and nothing else. The digits are
    compared as text, so that ``007`` is not 7 and a reversed answer keeps its zeros.
    """
    reply = text.strip()
    correct = float(reply == expected)
    number = bool(NUMBER.fullmatch(reply))
    parts = {"correct": correct, "format": float(number)}
    return Reward(correct, parts, answer=reply if number else "")
