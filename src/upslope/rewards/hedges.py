"""Replies that name another answer beside the right one, which some scorers let pass."""

from __future__ import annotations

import re

JOIN = r"(?:\b(?:or|and|to|maybe|perhaps)\b|[,/|;\n])"
BEFORE, AFTER = re.compile(rf"\S\s*{JOIN}\s*$"), re.compile(rf"\s*{JOIN}\s*\S")


def hedged(gold: str, said: str) -> bool:
    """Whether a reply has the gold answer joined to something else, as in ``4 or 5``."""
    wanted, found = gold.strip().casefold(), said.strip().casefold()
    before, there, after = found.partition(wanted) if wanted else ("", "", "")
    return bool(there) and bool(BEFORE.search(before) or AFTER.match(after))
