"""Who computes with how many of the machine's threads: sampling, and an update beside it.

torch keeps the number for each calling thread, so each side sets its own: together they never
have more than there are, but for the one that each needs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from upslope import machine
from upslope.types import UserError

T = TypeVar("T")

# Parameters below which threads cost more than they do: operations are too short to be shared, and
# on a busy machine each waits for a thread that has no core.
SMALL = 5_000_000


class Threads:
    """``count`` threads. ``sampling`` says whether this process is sampling now."""

    def __init__(self, count: int, sampling: Callable[[], bool]) -> None:
        """The calling thread, whose event loop samples, has all of them."""
        self.count, self.sampling = count, sampling
        torch.set_num_threads(count)

    async def beside(self, update: Callable[[], T]) -> T:
        """Run an update in a thread of its own, while the event loop goes on with half of them."""

        def shared() -> T:
            self.share()
            return update()

        torch.set_num_threads(max(1, self.count // 2))
        try:
            return await asyncio.to_thread(shared)
        finally:
            torch.set_num_threads(self.count)

    def share(self) -> None:
        """In the update's thread, before each pass: all of them, or half beside sampling."""
        wanted = self.count - self.count // 2 if self.sampling() else self.count
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


def resolved(wanted: int, parameters: int, say: Callable[[str], None]) -> int:
    """How many a model of so many parameters uses; 0 is one for each core, or one alone for a
    small model. UserError for more than there are cores."""
    cores = machine.cores()
    if not wanted and parameters < SMALL:
        return 1
    if wanted > cores:
        raise UserError(
            f"machine.threads={wanted} is more than the {cores} cores there are, and threads that "
            "wait for a core make all others wait: lower it, or leave it at 0 for one a core"
        )
    count, load = wanted or cores, os.getloadavg()[0]
    if count > 1 and load >= cores:
        say(
            f"  other programs kept the machine busy in the last minute (load {load:.1f} on {cores}"
            " cores): if they go on, machine.threads=1 is faster"
        )
    return count
