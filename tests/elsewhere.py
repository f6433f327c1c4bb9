"""A device made of the CPU: what mixes its tensors with the CPU's fails as it would on a GPU.

Its tensors say that they are on "meta" and carry their numbers along. What it cannot show is what
kernels of a real device do.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = torch.device("meta")
ATEN = torch.ops.aten
# A GPU reads indices, and what it copies from, on the CPU.
MIXED = {ATEN.index.Tensor, ATEN.index_put_.default, ATEN._index_put_impl_.default}
MIXED |= {ATEN.index_put.default, ATEN.copy_.default, ATEN._to_copy.default}


class Away(Tensor):
    """A tensor on the device; ``here`` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        away = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=AWAY
        )
        away.here = here
        return away

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of Elsewhere")


class _Made(TorchFunctionMode):
    """``torch.tensor`` writes numbers into memory that only a CPU has: made there, then moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and (device := kwargs.pop("device", None)) is not None:
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """Within it "meta" is the device; ``double``: whether it has float64, which MPS has not."""

    def __init__(self, double: bool = True) -> None:
        super().__init__()
        self.double, self.seen, self.made = double, 0, _Made()
        # A tensor of inference mode cannot stand for another one.
        self.patch = mock.patch.multiple(torch.inference_mode, __enter__=_enter, __exit__=_exit)

    def __enter__(self) -> Elsewhere:
        self.patch.start()
        self.made.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.made.__exit__(*error)
        self.patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        away = [x for x in given if isinstance(x, Away)]
        wanted = kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        to_away = torch.device(wanted) == AWAY if wanted is not None else bool(away)
        if func is ATEN.copy_.default:
            to_away = isinstance(args[0], Away)
        if away and func not in MIXED and any(x.dim() and type(x) is not Away for x in given):
            stray = [tuple(x.shape) for x in given if type(x) is not Away]
            raise RuntimeError(f"{func}: {stray} on the CPU, the others on the device")
        out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        if not to_away:
            return out
        self.seen += 1
        own = {id(x.here): x for x in away}
        return tree_map(lambda x: self._away(x, own), out)

    def _away(self, x: Any, own: dict[int, Away]) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.dtype == torch.float64 and not self.double:
            raise TypeError("the device does not know float64")
        return own[id(x)] if id(x) in own else Away(x)


def _enter(mode: torch.inference_mode) -> None:
    torch.set_grad_enabled(False)


def _exit(mode: torch.inference_mode, *error: Any) -> None:
    torch.set_grad_enabled(True)


def _here(x: Any) -> Any:
    return x.here if isinstance(x, Away) else x
