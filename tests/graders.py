"""Graders that misbehave, run in worker processes by the tests; a grading is named by its word."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

CALLS: list[str] = []


def obey(word: str, number: int = 0) -> Any:
    """What the word says; the number where it says nothing."""
    CALLS.append(word)
    deeds: dict[str, Callable[[], Any]] = {
        "sleep": lambda: time.sleep(600),
        "spin": spin,
        "power": lambda: len(str(10 ** (10**9))),
        "eat": lambda: len(bytearray(1 << 40)),
        "raise": lambda: 1 // 0,
        "exit": lambda: os._exit(3),
        "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "end": lambda: os.killpg(0, signal.SIGKILL),
        "orphan": lambda: os.kill(os.getppid(), signal.SIGKILL),
        "print": lambda: print("noise\n{}", flush=True),
        "calls": lambda: len(CALLS),
        "loaded": lambda: sorted({"torch", "transformers", "numpy"} & set(sys.modules)),
        "session": lambda: os.getsid(0) == os.getppid(),
        "pid": os.getpid,
    }
    return deeds[word]() if word in deeds else number


def spin() -> None:
    while True:
        pass
