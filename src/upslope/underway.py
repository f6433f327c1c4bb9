"""Groups that are being played, and which of them is taken next: the first done within a window.

In order of dispatch, the slowest play of a batch holds up all; first done, first taken, a batch is
of what is soon done, which is what is easy. A window of ``w`` groups from the oldest on lies
between (MiniMax's Forge): at most w - 1 groups that were dispatched later are taken before any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any

from upslope.types import Group, Problem


@dataclass
class Play:
    """A group being played: the ``place``-th that was dispatched, and the ``end``-th that was done,
    None as long as it is not."""

    problem: Problem
    visit: int
    place: int
    task: asyncio.Task[Group]
    end: int | None = None


class Underway:
    """Plays in order of dispatch, less those that were taken."""

    def __init__(self) -> None:
        self.plays: dict[int, Play] = {}
        self.places, self.ends = count(), count()

    def __len__(self) -> int:
        return len(self.plays)

    @property
    def unused(self) -> list[tuple[Problem, int]]:
        """What was dispatched and not taken, with its visit, in order."""
        return [(play.problem, play.visit) for play in self.plays.values()]

    def add(self, problem: Problem, visit: int, group: Coroutine[Any, Any, Group]) -> None:
        """Begin to play a group."""
        play = Play(problem, visit, next(self.places), asyncio.ensure_future(group))
        self.plays[play.place] = play
        play.task.add_done_callback(lambda _: self._ended(play))

    async def first(self, window: int) -> Group:
        """Take the first that is done of those dispatched less than ``window`` after the oldest.

        A window of 1 is the order of dispatch, and one of all that are ever dispatched the order in
        which they are done. Raises what the group's play raised.
        """
        last = next(iter(self.plays)) + window
        within = [play for place, play in self.plays.items() if place < last]
        while not (done := [play for play in within if play.end is not None]):
            await asyncio.wait([play.task for play in within], return_when=asyncio.FIRST_COMPLETED)
        chosen = min(done, key=_end)
        group = chosen.task.result()
        del self.plays[chosen.place]
        return group

    async def close(self) -> None:
        """Cancel all plays and wait until they have ended."""
        tasks = [play.task for play in self.plays.values()]
        self.plays.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, play: Play) -> None:
        play.end = next(self.ends)


def _end(play: Play) -> int:
    assert play.end is not None, "it is done"
    return play.end
