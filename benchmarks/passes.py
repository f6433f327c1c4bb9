"""Passes of a judge: the elapsed time of four at once with that of one, 50 ms a verdict.

    python benchmarks/passes.py
    python benchmarks/passes.py --passes 8 --latency 0.2 --group 16

The judge is a server in this process, which waits and then says a number; questions go to it over
HTTP, as to any. Each is the median of ``--times`` groups. Exit status 1 where four passes cost more
than 1.3 times one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from upslope.rewards import Grades, Host
from upslope.rewards.endpoint import Endpoint
from upslope.rewards.judge import Judge
from upslope.rewards.passes import Passes
from upslope.types import Problem, Segment, Trajectory

BOUND = 1.3
SAID = {"choices": [{"message": {"content": "Verdict: 7"}}]}


class Slow(BaseHTTPRequestHandler):
    """Waits, then says the same to everybody."""

    latency = 0.05
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.latency)
        data = json.dumps(SAID).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """As many at once as come."""

    request_queue_size, daemon_threads = 256, True


def host() -> Host:
    """Of a judge that is asked over HTTP, which needs nothing but a seed."""
    nothing: Any = None
    return Host(*[nothing] * 4, 0, lambda flops, tokens: None, print, nothing)


def group(size: int) -> tuple[Problem, list[Trajectory]]:
    """Replies to one question."""
    problem = Problem("p", ({"role": "user", "content": "How are you?"},))
    none = np.zeros(0)
    row = Segment(none, none, none, none)
    said = [{"role": "assistant", "content": f"reply {i}"} for i in range(size)]
    return problem, [
        Trajectory(problem, 0, i, (row,), (), (*problem.messages, one))
        for i, one in enumerate(said)
    ]


def took(grades: Grades, size: int, times: int) -> float:
    """Median seconds of a group, after one that starts the threads."""
    problem, plays = group(size)

    async def each() -> list[float]:
        seconds = []
        for _ in range(times + 1):
            began = time.perf_counter()
            rewards = await grades.rewards(problem, plays)
            seconds.append(time.perf_counter() - began)
            assert all(r.valid and r.total == 0.7 for r in rewards)
        return seconds[1:]

    return statistics.median(asyncio.run(each()))


def main() -> int:
    """Print both times and their ratio."""
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--passes", type=int, default=4)
    asked.add_argument("--latency", type=float, default=0.05)
    asked.add_argument("--group", type=int, default=8)
    asked.add_argument("--times", type=int, default=9)
    given = asked.parse_args()
    Slow.latency = given.latency
    server = Server(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = Judge(endpoint=Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1"))
    one = took(judge.open(host()), given.group, given.times)
    several = took(Passes(judge, given.passes).open(host()), given.group, given.times)
    server.shutdown()
    print(f"a group of {given.group}, {1000 * given.latency:g} ms a verdict")
    print(f"one pass        {1000 * one:6.1f} ms")
    print(f"{given.passes} passes        {1000 * several:6.1f} ms")
    print(f"ratio {several / one:.2f}, bound {BOUND}")
    return int(several / one > BOUND)


if __name__ == "__main__":
    sys.exit(main())
