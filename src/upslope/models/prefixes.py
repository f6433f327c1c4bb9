"""What later prompts may begin with, kept with its keys and values, within a bound of memory.

Only whole entries are found, and only under the weights that computed them. Entries of rows last
until the weights change. Those of what several prompts began with last while the engine is at work,
so that what a run computes does not depend on what was asked of the engine before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """``keys`` and ``values`` [layers, kv, token, size]; ``passing``: only while requests wait."""

    keys: Tensor
    values: Tensor
    passing: bool

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.keys.nbytes + self.values.nbytes


class Prefixes:
    """Entries by their tokens, the next to go first."""

    def __init__(self, limit: int) -> None:
        """Empty; ``limit`` in bytes."""
        self._limit, self._kept = limit, OrderedDict[Tokens, Prefix]()

    @property
    def nbytes(self) -> int:
        """Of all entries."""
        return sum(prefix.nbytes for prefix in self._kept.values())

    def keep(self, tokens: Tokens, prefix: Prefix) -> None:
        """Remember an entry; the oldest make room for it."""
        self._kept[tokens] = prefix
        self._kept.move_to_end(tokens)
        while self.nbytes > self._limit:
            self._kept.popitem(last=False)

    def known(self, prompt: Tokens) -> int:
        """Tokens of the longest entry that the prompt continues; 0 where there is none."""
        lengths = {len(tokens) for tokens in self._kept if len(tokens) < len(prompt)}
        found = (n for n in sorted(lengths, reverse=True) if prompt[:n] in self._kept)
        return next(found, 0)

    def take(self, prompt: Tokens) -> Prefix | None:
        """That entry. A row's is likely to have had its use, and is then the next to go."""
        tokens = prompt[: self.known(prompt)]
        if not tokens:
            return None
        prefix = self._kept[tokens]
        self._kept.move_to_end(tokens, last=prefix.passing)
        return prefix

    def rest(self) -> None:
        """Nobody waits any more: only entries of rows stay."""
        for tokens in [tokens for tokens, prefix in self._kept.items() if prefix.passing]:
            del self._kept[tokens]

    def clear(self) -> None:
        """Forget everything: the weights are others."""
        self._kept.clear()


def side_by_side(found: Sequence[Prefix | None]) -> tuple[Tensor, Tensor] | None:
    """Keys and values [layers, prompts, kv, longest, size], each entry at the end of its columns;
    None where nothing was found."""
    some = [prefix for prefix in found if prefix is not None]
    if not some:
        return None
    layers, kv, _, size = some[0].keys.shape
    longest = max(prefix.keys.shape[2] for prefix in some)
    keys, values = some[0].keys.new_zeros(2, layers, len(found), kv, longest, size)
    for place, prefix in enumerate(found):
        if prefix is not None:
            first = longest - prefix.keys.shape[2]
            keys[:, place, :, first:], values[:, place, :, first:] = prefix.keys, prefix.values
    return keys, values
