"""A run's host, for its record: versions, platform, cores, commit. Never environment variables."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from upslope import machine

PACKAGES = (
    "upslope",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
    "pyarrow",
    "jinja2",
)


def environment(seed: int, argv: Sequence[str]) -> dict[str, Any]:
    """What someone needs to run it again, in JSON types."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": list(argv),
        "seed": seed,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "cores_available": machine.cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def commit() -> str:
    """The working directory's git commit, marked where files differ from it; "" where none is."""
    head = _git("rev-parse", "HEAD")
    return f"{head}-modified" if head and _git("status", "--porcelain") else head


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
