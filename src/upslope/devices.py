"""Which device a run computes on, and how large a pass fits there."""

from __future__ import annotations

import torch

from upslope import machine


def device_of(name: str) -> str:
    """The device to use; "auto" takes an accelerator where there is one."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fitting_tokens(device: str, per_token: int) -> int:
    """Tokens whose activations fit into a sixteenth of the memory, and into 1 GiB on a CPU."""
    room = machine.memory() // 16
    if device == "cuda":
        room = torch.cuda.mem_get_info()[0] // 4
    elif device == "cpu":
        room = min(room, 2**30)
    return max(256, min(65536, room // per_token))
