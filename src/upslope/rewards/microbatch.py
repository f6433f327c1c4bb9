"""Rows that several groups wait for, scored in one pass, in a thread beside sampling.

While a pass runs, whoever asks joins the next one. A row that several ask for is scored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from upslope.rewards.nested import SIGN_OF_LIFE

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a dialogue, and the places in it whose states are scored."""

    tokens: tuple[int, ...]
    at: tuple[int, ...]


class Microbatch(Generic[T]):
    """``run`` scores rows of up to ``most`` tokens, or a single longer one, in order."""

    def __init__(self, run: Callable[[Sequence[Row]], Sequence[T]], most: int) -> None:
        self.run, self.most = run, most
        self.waiting: dict[Row, asyncio.Future[T]] = {}
        self.pump: asyncio.Task[None] | None = None
        self.pool: ThreadPoolExecutor | None = None

    async def scores(self, rows: Sequence[Row]) -> list[T]:
        """One for each row; raises what its pass raised."""
        if self.pump is None or self.pump.done():
            self.waiting.clear()  # of a run that was ended
            self.pump = asyncio.ensure_future(self._passes())
        loop = asyncio.get_running_loop()
        for row in rows:
            if row not in self.waiting:
                self.waiting[row] = loop.create_future()
        wanted = [self.waiting[row] for row in rows]
        left = set(wanted)
        # To be queued is not to hang: whoever bounds this call sees that it still moves.
        while left:
            _, left = await asyncio.wait(left, timeout=SIGN_OF_LIFE)
        return [one.result() for one in wanted]

    async def _passes(self) -> None:
        """Pass after pass, until nobody waits."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # groups that are ready now may join
            if not (rows := self._next()):
                return
            if self.pool is None:
                self.pool = ThreadPoolExecutor(1, "upslope-reward")
            done = loop.run_in_executor(self.pool, self.run, rows)
            await asyncio.wait([done])
            error = done.exception()
            found = [] if error else done.result()
            asked = [self.waiting.pop(row) for row in rows]
            for place, one in enumerate(asked):
                if error:
                    one.set_exception(error)
                else:
                    one.set_result(found[place])

    def _next(self) -> list[Row]:
        """Those that have waited longest, within the bound."""
        rows: list[Row] = []
        for row in self.waiting:
            if rows and sum(len(r.tokens) for r in rows) + len(row.tokens) > self.most:
                break
            rows.append(row)
        return rows

    def close(self) -> None:
        """End the thread, after the pass that it is in."""
        if self.pool is not None:
            self.pool.shutdown()
            self.pool = None
