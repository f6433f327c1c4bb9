"""Weights in memory that two processes see, by Hugging Face name."""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from upslope.models.fused import fill

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
ALIGNED = 64  # bytes: a line of the cache


def layout_of(tensors: Iterable[tuple[str, Tensor]]) -> Layout:
    """Shape and dtype of each."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors}


class SharedWeights:
    """``types.WeightSource`` of what was last put into it. ``file``: what another one made."""

    def __init__(self, layout: Layout, file: int = -1) -> None:
        """Map the file, or make one that has no name and goes with its last process."""
        places, size = dict[str, slice](), 0
        for name, (shape, dtype) in layout.items():
            length = math.prod(shape) * dtype.itemsize
            places[name] = slice(size, size + length)
            size += -(-length // ALIGNED) * ALIGNED
        self.size = size  # in bytes
        self.file = _unnamed(size) if file < 0 else file
        weakref.finalize(self, os.close, self.file)  # what is mapped stays so
        flat = torch.frombuffer(mmap.mmap(self.file, size), dtype=torch.uint8)
        self._slots = {
            name: flat[place].view(layout[name][1]).view(layout[name][0])
            for name, place in places.items()
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Views of the memory itself."""
        yield from self._slots.items()

    def put(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy tensors; ValueError where one is missing, unknown or misshapen."""
        fill(self._slots, tensors)


def _unnamed(size: int) -> int:
    """The descriptor of a file of so many bytes: in memory where the system has such files."""
    if sys.platform == "linux":
        file = os.memfd_create("weights")
    else:
        with tempfile.TemporaryFile() as opened:
            file = os.dup(opened.fileno())
    os.ftruncate(file, size)
    return file
