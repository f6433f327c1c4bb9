"""Programs that nobody has read: what they may do, what they may not, and what is left of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from upslope import sandbox as sandboxes
from upslope.sandbox import Limits, Offer, Program, Ran, Sandbox, offered, sandbox
from upslope.sandbox.limits import Level
from upslope.sandbox.worker import GoneError, Worker
from upslope.types import UserError

BEST = offered()
SMALL = Limits(seconds=4.0, memory=256, files=4, disk=8, output=0.1)
THREAD = "import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()"
needs_isolation = pytest.mark.skipif(
    BEST.level != "isolated", reason=f"this host isolates nothing: {dict(BEST.missing)}"
)
needs_confinement = pytest.mark.skipif(
    BEST.level == "limited", reason=f"this host confines nothing: {dict(BEST.missing)}"
)


def run(source: str, limits: Limits = SMALL, stdin: str = "", level: Level | None = None) -> Ran:
    return sandbox(level or BEST.level).runs(Program(source, stdin=stdin), limits)


def left_over(mark: str) -> list[str]:
    """Processes of this machine that carry a mark in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def test_a_program_runs_and_says_how_it_ended() -> None:
    ran = run("print(input()[::-1])", stdin="abc\n")
    assert (ran.ending, ran.code, ran.text) == ("ended", 0, "cba\n")
    assert run("raise SystemExit(3)").code == 3
    assert run("raise SystemExit('no')").code == 1
    failed = run("def f():\n    return 1 / 0\nf()")
    assert failed.code == 1
    assert 'File "<program>", line 2, in f' in failed.text
    assert failed.text.endswith("ZeroDivisionError: division by zero\n")
    assert "warden" not in failed.text
    assert run("syntax error").text.count("SyntaxError") == 1


def test_runs_leave_nothing_to_the_next() -> None:
    level = BEST.level
    made = Sandbox(level)
    try:
        wrote = (
            "import os, builtins\nopen('kept', 'w').write('1')\n"
            "builtins.kept = 1\nos.environ['k'] = '1'"
        )
        made.runs(Program(wrote), SMALL)
        looked = (
            "import os, builtins\n"
            "print(os.path.exists('kept'), hasattr(builtins, 'kept'), 'k' in os.environ)"
        )
        assert made.runs(Program(looked), SMALL).text == "False False False\n"
        assert len(made._idle) == 1  # one warden did both
    finally:
        made.close()


@pytest.mark.parametrize(
    ("source", "ending"),
    [
        ("while True: pass", "seconds"),
        ("import time; time.sleep(60)", "seconds"),
        ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)", "seconds"),
        (
            THREAD,
            "seconds",
        ),
        ("print('x' * 10_000_000)", "output"),
        ("import os\nwhile True: os.write(2, b'x' * 1000)", "output"),
    ],
)
def test_a_program_is_ended_at_its_limits(source: str, ending: str) -> None:
    ran = run(source, Limits(seconds=0.5, output=0.1))
    assert ran.ending == ending
    assert len(ran.output) <= 0.1 * 2**20
    assert ran.seconds < 4


def test_memory_files_and_sockets_are_bounded() -> None:
    assert "MemoryError" in run("x = bytearray(2**30)").text
    big = run("with open('big', 'wb') as file:\n    file.write(b'x' * 2**23)")
    assert big.code != 0  # by the signal of a file too large, or its error
    assert "OSError" in run("import os\nheld = [os.open('/dev/null', 0) for _ in range(100)]").text


@needs_isolation
def test_many_files_and_many_processes_are_bounded_together() -> None:
    fill = "for i in range(9):\n    open(str(i), 'wb').write(b'x' * 2**20)"
    assert "No space left on device" in run(fill).text
    shared = "for i in range(9):\n    open(f'/dev/shm/{i}', 'wb').write(b'x' * 2**20)"
    assert "No space left on device" in run(shared).text
    many = "import os, time\nfor _ in range(4000):\n    if os.fork() == 0:\n        time.sleep(30)"
    ran = run(many)
    assert "BlockingIOError" in ran.text
    assert ran.seconds < 4
    # Each is below its own limit, all of them are above: 12 x 40 MiB of 256.
    share = (
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n"
        "        x = bytearray(40 * 2**20)\n        time.sleep(30)\ntime.sleep(30)"
    )
    assert run(share).ending == "memory"


@needs_isolation
def test_it_sees_nothing_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("told")
    monkeypatch.setenv("UPSLOPE_TEST_KEY", "told")
    made = Sandbox("isolated")  # begun with the key in our environment
    try:
        for source in (
            f"print(open({str(secret)!r}).read())",
            "print(open('/etc/passwd').read())",
            "print(open('/proc/1/environ').read())",
            "import os\nos.symlink('/etc/passwd', 'link')\nprint(open('link').read())",
            "open('/usr/bin/new', 'w').write('x')",
            "import os\nos.mkdir('/new')",
            "import os\nos.chmod('/usr/bin', 0o777)",
            "open('/dev/shm/../../usr/x', 'w')",
        ):
            ran = made.runs(Program(source), SMALL)
            assert ran.code == 1, source
            assert "Error" in ran.text
        ran = made.runs(
            Program("import os\nprint(sorted(os.environ), os.getuid(), os.getpid())"), SMALL
        )
        assert ran.text == "['HOME', 'LANG', 'PATH', 'PYTHONHASHSEED'] 65534 1\n"
        assert (
            made.runs(
                Program("import os\nprint(os.listdir('/proc'), os.listdir('/dev/shm'))"), SMALL
            ).text
            == "[] []\n"
        )
        held = (
            "import os, contextlib\nfor n in range(3, 64):\n"
            "    with contextlib.suppress(OSError):\n        print(n, os.fstat(n))\nprint('none')"
        )
        assert made.runs(Program(held), SMALL).text == "none\n"
    finally:
        made.close()


@needs_confinement
def test_it_reaches_no_network_and_no_other_process() -> None:
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as named:
        server.bind(("127.0.0.1", 0))
        server.listen()
        named.bind("\0upslope-test-" + str(os.getpid()))
        named.listen()
        port = server.getsockname()[1]
        tcp = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)"
        assert "Error" in run(tcp).text
        if BEST.level == "isolated":
            unix = (
                "import socket\n"
                f"socket.socket(socket.AF_UNIX).connect('\\0upslope-test-{os.getpid()}')"
            )
            assert "ConnectionRefusedError" in run(unix).text
    assert "PermissionError" in run("import socket\nsocket.socket(40, socket.SOCK_STREAM)").text
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        ran = run(f"import os\nos.kill({victim.pid}, 9)\nos.kill({os.getpid()}, 9)")
        assert ran.code == 1
        run("import os\nos.kill(os.getppid(), 9)")
        run("import os\nos.kill(-1, 9)")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
    assert run("print('still here')").text == "still here\n"


@needs_confinement
def test_calls_that_lead_out_are_refused() -> None:
    calls = {
        "unshare": (272, 97),
        "mount": (165, 40),
        "ptrace": (101, 117),
        "memfd_create": (319, 279),
    }
    which = 0 if os.uname().machine == "x86_64" else 1
    for numbers in calls.values():
        ran = run(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            f"print(libc.syscall({numbers[which]}, 0, 0, 0, 0, 0), ctypes.get_errno())"
        )
        assert ran.text == "-1 1\n"


@needs_isolation
def test_what_it_began_ends_with_it() -> None:
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    python = os.path.realpath(sys.executable)
    stays = f"import time, sys; time.sleep(60)  # {mark}"
    leaves = (
        "import os, sys, subprocess\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    subprocess.Popen([{python!r}, '-I', '-S', '-c', {stays!r}], "
        "start_new_session=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print('left')\n"
    )
    assert run(leaves).text == "left\n"
    assert left_over(mark) == []


def test_closing_ends_the_warden() -> None:
    worker = Worker(BEST.level)
    assert worker.run(Program("print(1)"), SMALL).text == "1\n"
    worker.close()
    assert worker.process.poll() == 0
    assert not Path(worker.folder).exists()


def test_a_warden_that_dies_is_replaced_and_said_to_have_failed() -> None:
    made = Sandbox(BEST.level)
    try:
        assert made.runs(Program("print(1)"), SMALL).text == "1\n"
        [worker] = made._idle
        os.killpg(worker.process.pid, 9)
        worker.process.wait()
        assert made.runs(Program("print(2)"), SMALL).text == "2\n"  # tried again with another
        assert worker not in made._idle
    finally:
        made.close()


def test_two_programs_talk_and_cannot_see_each_other() -> None:
    made = Sandbox(BEST.level)
    asks = "import os\nos.write(5, b'6*7')\nprint('was told', os.read(4, 9).decode())"
    waits = "import os\nprint('was told', os.read(4, 9).decode())"
    says = "import os\nos.write(5, str(eval(os.read(4, 9))).encode())"
    try:
        one, other = made.joins(Program(asks), Program(says), SMALL)
        assert (one.text, other.text, other.code) == ("was told 42\n", "", 0)
        one, _ = made.joins(Program(waits), Program("raise SystemExit"), SMALL)
        assert one.text == "was told \n"  # the other's end is the end of the pipe, not a wait
        if BEST.level == "isolated":
            look = "import os\nprint(os.getpid(), os.listdir('/tmp'))\nos.kill(2, 0)"
            one, _ = made.joins(Program(look), Program("import time\ntime.sleep(0.2)"), SMALL)
            assert one.text.startswith("1 []\n")
            assert "ProcessLookupError" in one.text
    finally:
        made.close()


def test_a_level_that_is_not_offered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.cache_clear()
    monkeypatch.setattr(
        sandboxes, "offered", lambda: Offer("limited", {"isolated": "no namespaces"})
    )
    with pytest.raises(
        UserError, match=r'does not offer the sandbox "isolated" \(no namespaces\).*"limited"'
    ):
        sandbox("isolated")
    assert sandbox("limited").level == "limited"
    sandbox.cache_clear()


def test_a_warden_that_cannot_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "warden.py"
    broken.write_text("raise OSError('no such call here')")
    monkeypatch.setattr(sandboxes.worker, "WARDEN", broken)  # type: ignore[attr-defined]
    with pytest.raises(GoneError, match="no such call here"):
        Worker("limited")


def test_limits_are_above_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Limits(seconds=0)
