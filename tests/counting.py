"""torch's FLOP counter, taught the operations it leaves out (torch 2.13)."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from upslope.models import products

aten = torch.ops.aten


class Counter(FlopCounterMode):
    """Of products as they are meant: what oneDNN's are padded with is no work of a model."""

    def __enter__(self) -> Counter:
        self.grid = products.grid
        products.grid = lambda n: n
        super().__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)
        products.grid = self.grid


def counter() -> FlopCounterMode:
    """A counter that also counts fused CPU attention, as on CUDA, in-place ``addmm_``, oneDNN's
    products, and those of experts, as transformers runs them."""

    def forward(q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> int:
        return sdpa_flop(q, k, v)

    def backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> int:
        return sdpa_backward_flop(grad, q, k, v)

    def addmm(total: Any, a: Any, b: Any, *rest: Any, **named: Any) -> int:
        return int(2 * a[0] * a[1] * b[1])

    def grouped(a: Any, b: Any, *rest: Any, **named: Any) -> int:
        """[n, in] with [experts, in, out]; or backward, to a weight: [in, n] with [n, out]."""
        return int(2 * a[0] * a[1] * b[-1])

    def linear(x: Any, weight: Any, *rest: Any, **named: Any) -> int:
        return int(2 * x[0] * x[1] * weight[0])

    return Counter(
        display=False,
        custom_mapping={
            **({torch.ops.mkldnn._linear_pointwise: linear} if products.there() else {}),
            aten._scaled_dot_product_flash_attention_for_cpu: forward,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
            aten.addmm_: addmm,
            aten._grouped_mm: grouped,
        },
    )
