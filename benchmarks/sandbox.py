"""How fast the sandbox runs short programs, warm and cold, and what is left of many.

    python benchmarks/sandbox.py
    python benchmarks/sandbox.py --runs 10000

Warm: wardens that stay, one for each core. Cold: a warden for each run. Then processes of this
machine that carry the sandbox's mark after all runs. At the best level that the host offers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from upslope import machine
from upslope.sandbox import Limits, Program, Sandbox, offered
from upslope.sandbox.worker import WARDEN, Worker

SHORT = Program("print(sum(range(1000)))")
LEAVES = Program("import os, time\nif os.fork() == 0:\n    time.sleep(60)\nprint(499500)")


def left_over() -> int:
    """Processes whose command line names the warden."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += str(WARDEN).encode() in path.read_bytes()
        except OSError:
            continue
    return found


async def warm(sandbox: Sandbox, program: Program, runs: int) -> float:
    """Runs a second."""
    at_once = asyncio.Semaphore(4 * machine.cores())

    async def one() -> None:
        async with at_once:
            ran = await sandbox.run(program, Limits())
        assert ran.text == "499500\n", ran

    await asyncio.gather(*(one() for _ in range(2 * machine.cores())))
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(runs)))
    return runs / (time.perf_counter() - began)


def cold(runs: int) -> float:
    """Runs a second, each in a warden of its own."""
    level = offered().level

    def one(number: int) -> None:
        worker = Worker(level)
        assert worker.run(SHORT, Limits()).text == "499500\n"
        worker.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(machine.cores()) as pool:
        list(pool.map(one, range(runs)))
    return runs / (time.perf_counter() - began)


def main() -> None:
    """Print all three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--runs", type=int, default=2000, help="warm, half of which leave a process"
    )
    options = parser.parse_args()
    offer = offered()
    print("python", *sys.argv, f"({offer.level}, {machine.cores()} cores)")
    sandbox = Sandbox(offer.level)
    half = options.runs // 2
    print(f"warm: {asyncio.run(warm(sandbox, SHORT, half)):.0f} runs a second")
    if offer.level == "isolated":
        rate = asyncio.run(warm(sandbox, LEAVES, half))
        print(f"warm, each leaving a process behind: {rate:.0f} runs a second")
    sandbox.close()
    print(f"cold: {cold(100):.0f} runs a second")
    print(f"processes left: {left_over()}")
    sys.exit(int(left_over() > 0))


if __name__ == "__main__":
    main()
