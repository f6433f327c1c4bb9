"""Accelerators by name, as their makers describe them, and what a step would take on one.

Nothing here was measured: makers' figures, and the shares of them that good code usually reaches.
Weights, keys and values are in 16 bits; the optimiser keeps float32 copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from upslope.sizes import Sizes

COMPUTE, BANDWIDTH = 0.4, 0.6  # shares of the makers' figures that good code reaches
WIDTH = 2  # bytes of a number in 16 bits
# Bytes of a trained weight: its gradient and float32 copy, two moments; read and written in a step.
OPTIMISER = WIDTH + 3 * 4


@dataclass(frozen=True, slots=True)
class Accelerator:
    """FLOP/s in 16 bits without sparsity, bytes/s and bytes of its memory."""

    flops: float
    bandwidth: float
    memory: float

    def seconds(self, flops: float, moved: float) -> float:
        """Of work that computes so many FLOPs and moves so many bytes, at the usual shares."""
        return max(flops / (COMPUTE * self.flops), moved / (BANDWIDTH * self.bandwidth))


@dataclass(frozen=True, slots=True)
class Load:
    """A model to be trained: its parameters, how many of them are trained, what keys and values
    take [bytes a token], and how many replies are sampled at once."""

    parameters: int
    trained: int
    stored: float
    rows: int

    def seconds(self, s: Sizes, there: Accelerator) -> Mapping[str, float]:
        """Of a step, by phase."""
        weights, waves = WIDTH * self.parameters, -(-s.trajectories // self.rows)
        passed = self.stored * s.trajectories * (s.prompt + s.reply / 2)
        moved = s.reply * (waves * weights + passed)
        phases = {
            "prefill": there.seconds(s.prefill, weights) if s.prefill else 0.0,
            "decode": there.seconds(s.decode, moved) if s.decode else 0.0,
            "update": there.seconds(s.update, 2 * OPTIMISER * self.trained),
            "reference": there.seconds(s.reference, weights) if s.reference else 0.0,
        }
        return {phase: seconds for phase, seconds in phases.items() if seconds}

    def memory(self, s: Sizes) -> float:
        """Bytes: policy, optimiser and engine, and the replies' keys and values; no activations."""
        stored = self.stored * min(s.trajectories, self.rows) * (s.prompt + s.reply)
        copies = 3 if s.reference else 2
        return copies * WIDTH * self.parameters + OPTIMISER * self.trained + stored


ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {
        "t4": Accelerator(65e12, 0.32e12, 16e9),
        "l4": Accelerator(121e12, 0.30e12, 24e9),
        "rtx4090": Accelerator(165e12, 1.01e12, 24e9),
        "l40s": Accelerator(362e12, 0.86e12, 48e9),
        "a100": Accelerator(312e12, 2.04e12, 80e9),
        "h100": Accelerator(989e12, 3.35e12, 80e9),
        "h200": Accelerator(989e12, 4.80e12, 141e9),
        "b200": Accelerator(2250e12, 8.00e12, 180e9),
        "mi300x": Accelerator(1307e12, 5.30e12, 192e9),
    }
)
