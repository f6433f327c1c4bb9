"""What a program may use, and how it ended."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from upslope.types import NOTHING

MIB = 1 << 20
Level = Literal["isolated", "confined", "limited"]
# "failed": the sandbox did, and nothing is known of the program.
Ending = Literal["ended", "seconds", "memory", "output", "failed"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run. ``memory``: of each process, and of all of them where they are isolated;
    ``files`` and ``disk``: of one file, and of all; ``output``: of what it says; sizes in MiB.
    """

    seconds: float = 5.0
    memory: int = 512
    processes: int = 16
    files: int = 16
    disk: int = 32
    output: float = 1.0

    def __post_init__(self) -> None:
        sizes = (self.seconds, self.memory, self.processes, self.files, self.disk, self.output)
        if not all(size > 0 and math.isfinite(size) for size in sizes):
            raise ValueError("seconds, memory, processes, files, disk and output are above 0")

    def rules(self, level: Level) -> Iterator[tuple[int, int]]:
        """For setrlimit. Processes are counted by user, so only where a run has one of its own."""
        yield resource.RLIMIT_AS, self.memory * MIB
        yield resource.RLIMIT_CPU, math.ceil(self.seconds) + 1
        yield resource.RLIMIT_FSIZE, self.files * MIB
        yield resource.RLIMIT_NOFILE, 64
        yield resource.RLIMIT_CORE, 0
        if level == "isolated":
            yield resource.RLIMIT_NPROC, self.processes


@dataclass(frozen=True, slots=True)
class Program:
    """Python source, or a ``command`` that finds it on descriptor 3; ``stdin``: what it is told;
    ``wires``: descriptors of ours that it has from 4 on."""

    source: str = ""
    command: tuple[str, ...] = ()
    stdin: str = ""
    wires: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: ``code`` as its parent saw it (negative: a signal), what it said, and
    ``reason`` where the sandbox failed."""

    ending: Ending
    code: int
    output: bytes
    seconds: float
    reason: str = ""

    @property
    def text(self) -> str:
        """What it said on both of its outputs, as text."""
        return self.output.decode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class Offer:
    """A level that a host offers, and by level why those above are not."""

    level: Level
    missing: Mapping[str, str] = field(default_factory=lambda: NOTHING)
