"""Products of FP32 matrices on a CPU, by the library of torch's two that suits the processor.

torch takes MKL. On processors that are not Intel's MKL leaves AVX-512 unused, and a row's bits
depend on how many rows are beside it. oneDNN, which is part of torch, too, uses what is there and
gives a row the same bits among any others: one thread of an AMD EPYC (Zen 5) came to 40 to 100
GFLOP a second by MKL, to 45 to 230 by oneDNN, and with AVX2 alone to as much by both.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

WORK = 2**24  # multiplications that are worth oneDNN's code for a new shape (0.4 ms, then kept)
_ALIKE: ContextVar[bool] = ContextVar("alike", default=False)


@contextmanager
def alike() -> Iterator[None]:
    """Within it products are those of torch's modules, to compare what else is computed.

    Sums of some hundred numbers differ between the libraries in their last bits, which over the
    layers of a model come to more than a comparison should have to allow.
    """
    token = _ALIKE.set(True)
    try:
        yield
    finally:
        _ALIKE.reset(token)


@cache
def foreign() -> bool:
    """Whether this is a processor that torch's own products do not suit, and oneDNN is there.

    By the processor's name and not by the clock: a resumed run has to choose as it did before.
    """
    return torch.backends.mkl.is_available() and "GenuineIntel" not in _about() and there()


def there() -> bool:
    """Whether this torch has oneDNN's product, which is no part of its promises."""
    x, w = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        return torch.equal(_one_dnn(x, w, None), F.linear(x, w))
    except (AttributeError, RuntimeError, TypeError):
        return False


def by_onednn(*factors: Tensor) -> bool:
    """Whether the product of more than one row goes oneDNN's way."""
    single = all(x.is_cpu and x.dtype == torch.float32 for x in factors)
    return single and not _ALIKE.get() and foreign()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` [n, in] by ``weight`` [out, in], without a gradient of its own."""
    if len(x) > 1 and len(x) * weight.numel() >= WORK and by_onednn(x, weight):
        return _one_dnn(x, weight, bias)
    return F.linear(x, weight, bias)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """``x`` [n, in] by ``matrix`` [in, out]."""
    return linear(x, matrix.t())


def add_product(into: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """``into`` plus that product, in place."""
    if len(x) > 1 and len(x) * matrix.numel() >= WORK and by_onednn(x, matrix):
        return into.add_(_one_dnn(x, matrix.t(), None))
    return into.addmm_(x, matrix)


def decoded(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` [n, in] by ``matrix`` [in, out]: a row's bits are the same among any other rows."""
    if len(x) > 1 and by_onednn(x, matrix):
        return _one_dnn(x, matrix.t(), bias)
    return x @ matrix if bias is None else torch.addmm(bias, x, matrix)


def add_decoded(into: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """``into`` plus that, in place."""
    if len(x) > 1 and by_onednn(x, matrix):
        return into.add_(_one_dnn(x, matrix.t(), None))
    return into.addmm_(x, matrix)


def _about() -> str:
    """What the system says of the processor."""
    info = Path("/proc/cpuinfo")
    return info.read_text(errors="ignore") if info.exists() else platform.processor()


def grid(n: int) -> int:
    """The least size of at least ``n`` that products are made for: eight to an octave."""
    step = max(8, 1 << max(n.bit_length() - 4, 0))
    return -(-n // step) * step


def _one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Of padded sizes: oneDNN makes code for each that it meets, and never gives its memory back.

    Rows are the same bits among any others, and what is added up gets zeros.
    """
    rows, inner = x.shape
    if rest := grid(inner) - inner:
        x, weight = F.pad(x, (0, rest)), F.pad(weight, (0, rest))
    if rest := grid(rows) - rows:
        x = F.pad(x, (0, 0, 0, rest))
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out[:rows]
