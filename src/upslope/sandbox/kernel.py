"""Linux by system call: namespaces, mounts, Landlock, seccomp. Part of the warden's program, which
runs by itself before the package can be seen: standard library alone, and no import of ours.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
NEWCGROUP, NEWTIME, THREAD, CHILD = 0x02000000, 0x00000080, 0x00010000, 17
BIND, RECURSIVE, PRIVATE, NOSUID, NODEV, DETACH = 4096, 16384, 1 << 18, 2, 4, 2
# By machine: audit architecture, then numbers of calls that this file makes or filters look at.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
CALLS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "pivot_root": (155, 41),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
# What no program that computes an answer needs: each has let somebody out, or fills memory unseen.
REFUSED = {
    "ptrace": (101, 117),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "open_by_handle_at": (304, 265),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "personality": (135, 92),
}
SIGNALS = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
ALLOW, REFUSE, ABSENT, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def checked(result: int, what: str) -> int:
    """A call's result; OSError with what it was for where it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """A system call that libc has no function for."""
    which = MACHINES[platform.machine()][1]
    return checked(LIBC.syscall(CALLS[name][which], *arguments), name)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    checked(LIBC.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """As mount(2)."""
    words = (source.encode(), target.encode(), kind.encode(), flags, data.encode())
    checked(LIBC.mount(*words), f"mount {target}")


def read_only(target: str) -> None:
    """Make a mount and all below it read-only, without devices and set-user-id."""
    attributes = struct.pack("<QQQQ", 1 | 2 | 4, 0, 0, 0)
    path = ctypes.create_string_buffer(target.encode())
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    call("mount_setattr", -100, path, 0x8000, buffer, len(attributes))


def root_at(folder: str) -> None:
    """Make a folder the root, and forget the root before."""
    os.chdir(folder)
    here = ctypes.create_string_buffer(b".")
    call("pivot_root", here, here)
    checked(LIBC.umount2(b".", DETACH), "umount2")
    os.chdir("/")


def born(flags: int) -> int:
    """As os.fork, into new namespaces."""
    which = MACHINES[platform.machine()][1]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = LIBC.syscall(CALLS["clone"][which], CHILD | flags, None, None, None, None)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return checked(pid, "clone")


def dies_with_parent() -> None:
    """Be killed when the parent ends."""
    checked(LIBC.prctl(1, 9, 0, 0, 0), "prctl")


def readable() -> None:
    """Let a process that gave up its user see what is its own in /proc."""
    checked(LIBC.prctl(4, 1, 0, 0, 0), "prctl")


def powerless() -> None:
    """Give up all capabilities, and the way to new ones."""
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0), 8)
    checked(LIBC.capset(header, ctypes.create_string_buffer(24)), "capset")
    checked(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")


def filtered(alone: bool) -> None:
    """Refuse calls that are not needed; ``alone``: signals and processes of its own, too."""
    audit, which = MACHINES[platform.machine()]
    refused = REFUSED | (SIGNALS if alone else {})
    numbers = sorted(number[which] for number in refused.values())
    rules = [_load(4), _jump(0x15, audit, 1, 0), _ends(KILL), _load(0)]
    if which == 0:  # the x32 calls of x86_64 have numbers of their own
        rules += [_jump(0x35, 0x40000000, 0, 1), _ends(KILL)]
    for number in numbers:
        rules += [_jump(0x15, number, 0, 1), _ends(REFUSE)]
    rules += [_jump(0x15, CALLS["clone3"][which], 0, 1), _ends(ABSENT)]
    # Sockets of one machine only: a namespace of networks does not hold those of virtual machines.
    rules += [_jump(0x15, CALLS["socket"][which], 0, 4), _load(16), _jump(0x15, 1, 0, 1)]
    rules += [_ends(ALLOW), _ends(REFUSE)]
    spaces = NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWCGROUP | NEWTIME
    rules += [_jump(0x15, CALLS["clone"][which], 0, 5 if alone else 3), _load(16)]
    rules += [_jump(0x45, spaces & ~NEWTIME, 0, 1), _ends(REFUSE)]
    if alone:
        rules += [_jump(0x45, THREAD, 1, 0), _ends(REFUSE)]
    rules += [_ends(ALLOW)]
    program = b"".join(rules)
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("<HxxxxxxQ", len(rules), ctypes.addressof(held))
    checked(LIBC.prctl(22, 2, ctypes.create_string_buffer(header, 16), 0, 0), "seccomp")


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", 0x20, 0, 0, offset)


def _jump(kind: int, value: int, true: int, false: int) -> bytes:
    return struct.pack("<HBBI", kind, true, false, value)


def _ends(value: int) -> bytes:
    return struct.pack("<HBBI", 0x06, 0, 0, value)


def landlocked(read: list[str], write: list[str]) -> None:
    """Let files be read and run below some folders, and written below others, and nowhere else."""
    everything = (1 << 13) - 1  # what the first version knows
    rules = ctypes.create_string_buffer(struct.pack("<Q", everything), 8)
    held = call("landlock_create_ruleset", rules, 8, 0)
    for paths, allowed in ((read, 1 | 4 | 8), (write, everything)):
        for path in filter(os.path.exists, paths):
            folder = os.open(path, os.O_PATH)
            here = allowed if os.path.isdir(path) else allowed & (1 | 2 | 4)
            rule = ctypes.create_string_buffer(struct.pack("<Qi", here, folder), 12)
            call("landlock_add_rule", held, 1, rule, 0)
            os.close(folder)
    checked(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
    call("landlock_restrict_self", held, 0)
    os.close(held)
