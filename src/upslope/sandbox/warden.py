"""The program that runs other programs: started as a process of its own, it shuts itself in and
then forks one of them at a time, as asked over the socket on its descriptor 0.

It never reads a program or what one says: both go through descriptors that it hands on. Standard
library alone, and ``kernel`` beside it: the package is not to be seen from where it goes.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
if TYPE_CHECKING:
    from upslope.sandbox import kernel
else:
    import kernel

NOBODY = 65534
DEVICES = ("null", "zero", "full", "random", "urandom")
SHOWN = ("/usr", "/bin", "/sbin", "/lib", "/lib64")  # and Python, where it lies elsewhere
LOOK = 0.025  # seconds between looks at how much memory is in use
EMPTY = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
STORE = 1 << 20  # bytes of the root folder itself, which holds nothing


def isolate(root: str) -> None:
    """Into namespaces of its own, seeing a root of system folders alone; as nobody's process 1."""
    privileged = os.getuid() == 0
    outer = (NOBODY - 1, NOBODY - 1) if privileged else (os.getuid(), os.getgid())
    if privileged:  # what only root may read is shown read-only; then root is given up
        kernel.unshare(kernel.NEWNS)
        furnish(root)
        os.setgroups([])
        os.setresgid(*[outer[1]] * 3)
        os.setresuid(*[outer[0]] * 3)
        kernel.readable()
    spaces = kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID | kernel.NEWNET
    kernel.unshare(spaces | kernel.NEWIPC | kernel.NEWUTS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {outer[0]} 1"),
        ("gid_map", f"{NOBODY} {outer[1]} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
            file.write(text)
    first = os.fork()
    if first:
        ended = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        os._exit(ended if ended >= 0 else 128 - ended)
    kernel.dies_with_parent()
    kernel.mount("none", "/", "", kernel.RECURSIVE | kernel.PRIVATE)
    if not privileged:
        furnish(root)
    kernel.mount(root, root, "", kernel.BIND | kernel.RECURSIVE)  # those of others cannot be moved
    kernel.mount("proc", f"{root}/proc", "proc", kernel.NOSUID | kernel.NODEV)
    kernel.root_at(root)
    socket.sethostname("sandbox")


def furnish(root: str) -> None:
    """A folder with what programs may see of the host, all of it read-only."""
    kernel.mount("none", "/", "", kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", kernel.NOSUID | kernel.NODEV, f"size={STORE},mode=755")
    for path in shown():
        target = root + path
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        os.makedirs(target)
        kernel.mount(path, target, "", kernel.BIND | kernel.RECURSIVE)
        kernel.read_only(target)
    for folder in ("dev", "proc", "tmp"):
        os.mkdir(f"{root}/{folder}")
    os.mkdir(f"{root}/dev/shm")
    for name in DEVICES:
        with open(f"{root}/dev/{name}", "wb"):
            kernel.mount(f"/dev/{name}", f"{root}/dev/{name}", "", kernel.BIND)


def shown() -> list[str]:
    """Folders that programs see: the system's, and Python's."""
    system = [path for path in SHOWN if os.path.lexists(path)]
    own = os.path.realpath(sys.base_prefix)
    return system if own.startswith("/usr") else [*system, own]


def begin(asked: dict[str, Any], handed: list[int], level: str) -> None:
    """In the forked process: take up its descriptors and limits, and become the program."""
    os.dup2(handed[1], 0)
    os.dup2(handed[2], 1)
    os.dup2(handed[2], 2)
    kept = [fcntl.fcntl(held, fcntl.F_DUPFD, 64) for held in (handed[0], *handed[3:])]
    for number, held in enumerate(kept, start=3):
        os.dup2(held, number)
    os.closerange(3 + len(kept), 1024)
    os.environ.clear()
    os.environ.update(EMPTY)
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_DFL)
    enclose(asked, level)
    for what, most in asked["limits"]:
        resource.setrlimit(what, (most, most))
    if asked["command"]:
        os.execve(asked["command"][0], asked["command"], EMPTY)
    with os.fdopen(3, "rb") as file:
        program = file.read()
    # The program is given what a script has, and nothing of the warden's but modules.
    scope = {"__name__": "__main__", "__builtins__": __builtins__}
    sys.argv, sys.path[:] = ["program"], [p for p in sys.path if p != os.path.dirname(__file__)]
    exec(compile(program, "<program>", "exec"), scope)


def enclose(asked: dict[str, Any], level: str) -> None:
    """Folders of its own, no power and few system calls, as the level has them."""
    if level == "isolated":
        flags = kernel.NOSUID | kernel.NODEV
        kernel.mount("none", "/", "", kernel.RECURSIVE | kernel.PRIVATE)
        for folder, size in (("/proc", 0), ("/tmp", asked["disk"]), ("/dev/shm", asked["disk"])):
            data = f"size={size or 4096},mode=1777,nr_inodes=4096"
            kernel.mount("tmpfs", folder, "tmpfs", flags, data)
        kernel.read_only("/proc")
        os.chdir("/tmp")
        kernel.powerless()
        kernel.filtered(alone=False)
    elif level == "confined":
        os.chdir(asked["folder"])
        kernel.landlocked([*shown(), *(f"/dev/{name}" for name in DEVICES)], [asked["folder"]])
        kernel.filtered(alone=True)
    else:
        os.chdir(asked["folder"])
    if level != "isolated":
        os.setsid()


def play(asked: dict[str, Any], handed: list[int], ask: socket.socket, level: str) -> None:
    """Fork a program, wait for its end, its limits or a word to end it, and say which it was."""
    spaces = kernel.NEWPID | kernel.NEWNS | kernel.NEWIPC
    sys.stdout.flush()
    pid = kernel.born(spaces) if level == "isolated" else os.fork()
    if pid == 0:
        code = 70
        try:
            begin(asked, handed, level)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException as error:  # noqa: BLE001  whatever a program raises
            shown_error(error)
            code = 1
        finally:
            finish(code)
    for held in handed:
        os.close(held)
    why = watch(pid, asked, ask, level)
    sweep(pid, level)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    ask.send(json.dumps({"why": why, "code": code}).encode())


def shown_error(error: BaseException) -> None:
    """As Python does at a program's end, from the program's own lines on."""
    sys.stdout.flush()
    traced = error.__traceback__
    while traced is not None and traced.tb_frame.f_code.co_filename != "<program>":
        traced = traced.tb_next
    traceback.print_exception(type(error), error, traced)


def finish(code: int) -> None:
    """End the forked process as Python ends, its threads first, and nothing of the warden's."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        code = code or 1
    os._exit(code & 255)


def watch(pid: int, asked: dict[str, Any], ask: socket.socket, level: str) -> str:
    """Until the program has ended, or what it is ended for: "seconds", "memory" or "asked"."""
    end = time.monotonic() + asked["seconds"]
    with os.fdopen(os.pidfd_open(pid), "rb") as gone:
        ended, asks = gone.fileno(), ask.fileno()
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return "seconds"
            ready, _, _ = select.select([ended, asks], [], [], min(left, LOOK))
            if ended in ready:
                return ""
            if asks in ready:
                ask.recv(64)
                return "asked"
            if level == "isolated" and in_use() > asked["memory"]:
                return "memory"


def in_use() -> int:
    """Bytes of memory of all processes of the warden's namespace but itself."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/statm", encoding="utf-8") as file:
                    pages += int(file.read().split()[1])
            except (OSError, IndexError):
                continue
    return pages * resource.getpagesize()


def sweep(pid: int, level: str) -> None:
    """Kill what is left of it: with process 1 of a namespace goes all that is in it."""
    try:
        if level == "isolated":
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> None:
    """Shut itself in as deep as told, say so, and serve until the socket is closed."""
    level, root = sys.argv[1:]
    ask = socket.socket(fileno=os.dup(0))
    if level == "isolated":
        isolate(root)
    ask.send(b"ready")
    while True:
        words, handed, _, _ = socket.recv_fds(ask, 4096, 8)
        if not words:
            return
        if handed:  # else a word to end what has ended meanwhile
            play(json.loads(words), handed, ask, level)


if __name__ == "__main__":
    main()
