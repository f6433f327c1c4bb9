"""So many plays at once, in whichever event loop they run."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary


class Places:
    """``count`` places in each event loop."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._loops = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()

    def one(self) -> asyncio.Semaphore:
        """To be entered, and left again."""
        loop = asyncio.get_running_loop()
        return self._loops.setdefault(loop, asyncio.Semaphore(self._count))
