"""Whether a token completes a stop string, which may span tokens or lie inside one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase


class Stops:
    """Looks for stop strings in the text of the last few tokens of a row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def complete(self, tokens: NDArray[np.integer[Any]], stop: tuple[str, ...]) -> bool:
        """Whether the last of a reply's ``tokens`` completes one of the strings."""
        last = int(tokens[-1])
        piece = self._pieces.get(last)
        if piece is None:
            piece = self._pieces[last] = self._text([last])
        if not any(_may_end(piece, s) for s in stop):
            return False
        # A token is at least a byte; the one before may be cut, or lose its leading space.
        tail = max(len(s.encode()) for s in stop) + 2
        text = self._text(tokens[-tail:].tolist())
        return any(s in text for s in stop)

    def _text(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)


def _may_end(piece: str, stop: str) -> bool:
    """Never wrongly False: decoders drop a lone space, and cannot show a part of a character."""
    return stop[-1] in piece or stop[-1].isspace() or "\ufffd" in piece
