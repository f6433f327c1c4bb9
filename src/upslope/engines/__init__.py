"""Engines by name: they sample from a copy of the policy, token ids in, token ids out.

``file.py:Name`` names one from outside the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from upslope.types import Engine

if TYPE_CHECKING:
    from upslope.engines.apart import ApartEngine
    from upslope.models.policy import Policy

ENGINES = {"local": "upslope.engines.local:Local"}


@runtime_checkable
class Opens(Protocol):
    """An engine's settings. Implementations are frozen dataclasses of them."""

    def open(self, policy: Policy, rows: int) -> Engine:
        """An engine with the policy's weights as version 0; decodes ``rows`` at once, at most."""


@runtime_checkable
class OpensApart(Protocol):
    """Settings of an engine of this process that can also have one of its own."""

    def apart(self, policy: Policy, rows: int, threads: int) -> ApartEngine:
        """As ``open``, in a process that computes with ``threads``."""
