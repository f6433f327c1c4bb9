"""One warden and what is asked of it: a program at a time, in a container that stays warm."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from upslope.sandbox.limits import MIB, Ending, Level, Limits, Program, Ran

WARDEN = Path(__file__).with_name("warden.py")
GRACE = 5.0  # seconds past a run's own, after which the warden itself is given up
START = 20.0  # seconds until a warden must have shut itself in
CHUNK = 1 << 16


class GoneError(Exception):
    """A warden that cannot start or has gone, with what it said."""


class Worker:
    """A warden at a level; ``close`` ends it and all that it runs. Used by one thread at a time."""

    def __init__(self, level: Level) -> None:
        self.level, self.ran, self.alive = level, 0, True
        self.folder = tempfile.mkdtemp(prefix="upslope-sandbox-")
        self.ask, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", str(WARDEN), level, self.folder]
        self.process = subprocess.Popen(
            command,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            start_new_session=True,
        )
        theirs.close()
        self.ask.settimeout(START)
        try:
            ready = self.ask.recv(64)
        except OSError as error:
            ready = str(error).encode()
        if ready != b"ready":
            said = self.close().decode(errors="replace").strip()
            raise GoneError(said.splitlines()[-1] if said else "it said nothing")

    def run(self, program: Program, limits: Limits, close: Sequence[int] = ()) -> Ran:
        """Run a program to its end or its limits; "failed" where the warden is gone. ``close``:
        descriptors that are the program's alone once it has them."""
        began = time.monotonic()
        self.ran += 1
        with ExitStack() as stack:
            output, theirs = os.pipe()
            stack.callback(os.close, output)
            handed = [_held(stack, program.source), _held(stack, program.stdin), theirs]
            asked = {
                "seconds": limits.seconds,
                "memory": limits.memory * MIB,
                "disk": limits.disk * MIB,
                "limits": list(limits.rules(self.level)),
                "command": program.command,
                "folder": self.folder,
            }
            try:
                words = [json.dumps(asked).encode()]
                socket.send_fds(self.ask, words, [*handed, *program.wires])
            except OSError as error:
                self.alive = False
                return Ran("failed", -1, b"", 0.0, f"the sandbox has gone: {error}")
            finally:
                for held in (theirs, *close):
                    os.close(held)
            ran = self._watched(output, began, limits)
        self.alive = ran.ending != "failed"
        self._swept()
        return ran

    def close(self) -> bytes:
        """End the warden, and with it all of its processes; what it complained of."""
        self.ask.close()
        try:
            _, said = self.process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            _, said = self.process.communicate(timeout=GRACE)
        shutil.rmtree(self.folder, ignore_errors=True)
        return bytes(said)

    def _watched(self, output: int, began: float, limits: Limits) -> Ran:
        """Read what it says until the warden tells of its end."""
        said, most, over = bytearray(), int(limits.output * MIB), False
        end, open_ = began + limits.seconds + GRACE, True
        ask = self.ask.fileno()
        answer: bytes | None = None
        while answer is None:
            left = end - time.monotonic()
            waited = [ask, output] if open_ else [ask]
            ready, _, _ = select.select(waited, [], [], max(0.0, left))
            if not ready:
                return Ran("failed", -1, bytes(said), time.monotonic() - began, "no answer")
            if ask in ready:
                answer = self.ask.recv(256)
            elif chunk := os.read(output, CHUNK):
                said += chunk[: most - len(said)]
                if len(said) == most and not over:
                    over = True
                    self.ask.send(b"end")
            else:
                open_ = False
        os.set_blocking(output, False)
        while open_ and len(said) < most:  # what was said before the end and not yet read
            try:
                chunk = os.read(output, CHUNK)
            except BlockingIOError:
                break
            open_ = bool(chunk)
            said += chunk[: most - len(said)]
        took = time.monotonic() - began
        if not answer:
            return Ran("failed", -1, bytes(said), took, "the sandbox has gone")
        told = json.loads(answer)
        why = {"": "ended", "asked": "output"}.get(told["why"], told["why"])
        ending: Ending = "output" if over else why
        return Ran(ending, told["code"], bytes(said), took)

    def _swept(self) -> None:
        """Leave no file to the next run, where runs share a folder."""
        if self.level != "isolated":
            for path in Path(self.folder).iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _held(stack: ExitStack, text: str) -> int:
    """A descriptor to read a text from, closed with the stack."""
    held, path = tempfile.mkstemp()
    os.unlink(path)
    stack.callback(os.close, held)
    with os.fdopen(held, "wb", closefd=False) as file:
        file.write(text.encode("utf-8", errors="surrogatepass"))
    os.lseek(held, 0, os.SEEK_SET)
    return held
