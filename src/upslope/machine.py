"""What this machine has: cores, memory, and how much of it this process has used."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
M_ARENA_MAX = -8  # glibc's name for the setting, from malloc.h


def prepare_memory() -> None:
    """Have large tensors use huge pages, and all threads one heap; before torch allocates.

    Huge pages save most page faults of an update. With a heap a thread, what one has freed another
    cannot use: the update's thread would hold a second model's worth of memory.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


@contextmanager
def settled() -> Iterator[None]:
    """Within it Python's collector looks only at what was made since.

    It would go through half a million objects of loaded libraries again and again, in a fifth of
    the time of sampling from a small model.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def cores() -> int:
    """Cores this process may use, within the container's limit."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    whole = len(os.sched_getaffinity(0))
    quota, period = CPU_MAX.read_text().split() if CPU_MAX.is_file() else ("max", "1")
    return whole if quota == "max" else max(1, min(whole, int(quota) // int(period)))


def memory() -> int:
    """Bytes that can be had now: what the kernel calls available, within the container's limit and
    the shell's (``ulimit -v``)."""
    if sys.platform != "linux":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines}
    available = int(fields["MemAvailable"]) * 1024
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            available = min(available, int(text) - used()[1])
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        available = min(available, most - used()[0])
    return max(available, 0)


def used() -> tuple[int, int]:
    """Bytes of this process on Linux: of addresses, and of memory."""
    pages = Path("/proc/self/statm").read_text().split()[:2]
    addresses, resident = (int(n) * os.sysconf("SC_PAGE_SIZE") for n in pages)
    return addresses, resident


def peak_memory() -> int:
    """The most bytes this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
