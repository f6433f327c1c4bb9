"""Engines by name: they sample from a copy of the policy, token ids in, token ids out.

``file.py:Name`` names one from outside the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from upslope.types import Engine

if TYPE_CHECKING:
    from upslope.models.policy import Policy

ENGINES = {"local": "upslope.engines.local:Local"}


@runtime_checkable
class Opens(Protocol):
    """An engine's settings. Implementations are frozen dataclasses of them."""

    def open(self, policy: Policy, rows: int) -> Engine:
        """An engine with the policy's weights as version 0; decodes ``rows`` at once, at most."""
