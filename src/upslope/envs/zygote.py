"""A process that imports modules once and then forks, for each play, a child that runs a script.

A plain script of the standard library: it runs in the user's Python, which may know no upslope.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any

MOST = 2**20  # bytes of a message
FILES = 3


def main() -> None:
    """``zygote.py DESCRIPTOR MODULE...``; ends with the other end of its socket."""
    wire = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # a child that collects what was imported copies all of its memory first
    woken, wakes = os.pipe()
    for file in (woken, wakes):
        os.set_blocking(file, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wire.send(b"{}")
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([wire.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            reap(wire, children)
        if wire.fileno() not in ready:
            continue
        data, files, _, _ = socket.recv_fds(wire, MOST, FILES)
        if not data:
            break
        asked = json.loads(data)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            wire.close()
            become(asked, files)
            return
        children.add(pid)
        for file in files:
            os.close(file)
        wire.send(json.dumps({"id": asked["id"], "pid": pid}).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def reap(wire: socket.socket, children: set[int]) -> None:
    """Tell of the children that have ended."""
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            wire.send(json.dumps({"pid": pid, "code": code}).encode())


def become(asked: dict[str, Any], files: list[int]) -> None:
    """Run the script as Python would; what it raises is the interpreter's to show."""
    os.setpgid(0, 0)
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    script, *_ = sys.argv = asked["words"]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
