"""The one way to derive randomness: seeds and splits are hashes of what they belong to.

Nothing repeats its draws across epochs, retries or turns, and nothing depends on batch composition.
"""

from __future__ import annotations

import hashlib

from upslope.types import Split

SPLITS: dict[Split, float] = {"train": 0.8, "validation": 0.08, "test": 0.12}


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from, say, (run seed, phase, problem id, visit, member, turn)."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def split_of(question: str) -> Split:
    """The split a question belongs to, for ever: 80% train, 8% validation, 12% test."""
    place = seed_of("split", question) / 2**63
    for split, share in SPLITS.items():
        place -= share
        if place < 0:
            return split
    return "test"
