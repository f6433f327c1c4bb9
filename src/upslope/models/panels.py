"""Products with wide matrices that lie in panels, each a few columns of all rows.

A CPU multiplies a panel that fits into its cache up to twice as fast as as many columns of a wide
matrix, and a panel at a time lets what is made of the product stay in the cache, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upslope.models.products import decoded

WIDEST = 192  # columns of a panel: a multiple of a vector, and few enough for the cache
STEP = 32  # what torch computes at once; elements beyond a multiple of it go one by one
CACHE = 2**21  # bytes of a core's own cache


def width(columns: int, widest: int = WIDEST) -> int:
    """Of the panels that so many columns are cut into; all of them where they cannot be cut."""
    fitting = (w for w in range(widest // STEP * STEP, widest // 3, -STEP) if columns % w == 0)
    return next(fitting, columns)


def product(x: Tensor, panels: Tensor) -> Tensor:
    """``x`` [n, in] by a matrix in ``panels`` [panels, in, width]: [panels, n, width]."""
    if len(panels) == 1:
        return decoded(x, panels[0])[None]
    return torch.bmm(x.expand(len(panels), *x.shape), panels)


def blocks(logits: Tensor) -> Tensor:
    """Logits [panels, n, width] as [n, blocks, width], in blocks a sampler can choose between.

    A vocabulary that cannot be cut evenly is filled up with tokens of probability 0.
    """
    panels, n, wide = logits.shape
    if wide <= WIDEST:
        return logits.transpose(0, 1)
    block = width(wide) if width(wide) <= WIDEST else WIDEST
    filled = logits.transpose(0, 1)
    if wide % block:
        filled = F.pad(filled, (0, -wide % block), value=-torch.inf)
    return filled.reshape(n, panels * -(-wide // block), block)
