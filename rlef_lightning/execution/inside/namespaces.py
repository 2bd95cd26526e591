"""Name spaces of the runner's own, where no helper program makes them: process ids, network, mounts, users.

An ordinary user may make them inside a new user name space, where the machine allows that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import NoReturn

from .kernel import PR_SET_PDEATHSIG, libc, prctl

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, NEW_USER, _NEWPID, _NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 1 << 18
_MOUNT_SETATTR, _MOUNT_ATTR_RDONLY, _AT_RECURSIVE = 442, 1, 0x8000
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)
_NO_CAPABILITIES = bytes(24)
"""Made beforehand: each array of ctypes is a new type, which cost a program's start 0.3 ms."""
_CHOWN, _DAC_OVERRIDE, _FOWNER, _KILL, _SETGID, _SETUID = 0, 1, 3, 5, 6, 7
RUNNER_CAPABILITIES = frozenset({_CHOWN, _DAC_OVERRIDE, _FOWNER, _KILL, _SETGID, _SETUID})
"""What it takes to give a program its user, to kill it and to empty its folder."""
_LAST_CAPABILITY = 63


def enter() -> tuple[int | None, str]:
    """Moves this process behind name spaces of its own; it is process 1 there when this returns.

    The process that called stays outside and ends with the inner one. Returns how many processes there are
    besides a program's in the user name space (the one that called, the runner, its template), None if it
    is the machine's; and what is missing, or "".
    """
    ordinary = os.geteuid() != 0
    for pids in (True, False):
        if trial := _try(pids):
            continue
        _unshare(pids)
        if pids:
            _become_first()
            _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "")
        beside = (3 if pids else 2) if ordinary else None
        return beside, "" if pids else "no process name space: /proc cannot be mounted in one here"
    return None, f"no name spaces: {trial}"


def mount_scratch(folder: str, size: int, files: int) -> None:
    """A file system in memory on `folder`, of `size` bytes and at most `files` files. Raises OSError."""
    options = f"size={size},nr_inodes={files},mode=0711"
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


def make_read_only() -> None:
    """All that is mounted in this mount name space, so that what is mounted later alone can be changed.

    Landlock does not know changes of modes, owners and times: an ordinary user's programs, which have the
    same user, could make them on all files of that user. Raises OSError.
    """
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    if libc.syscall(_MOUNT_SETATTR, -1, b"/", _AT_RECURSIVE, ctypes.byref(attributes), 32) != 0:
        raise OSError(ctypes.get_errno(), f"mount_setattr: {os.strerror(ctypes.get_errno())}")


def keep_capabilities(kept: frozenset[int]) -> None:
    """Gives up all other capabilities, for this process and whatever it executes. Raises OSError."""
    held = _held_capabilities()
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in kept:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused where it is not held, or unknown
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _set_capabilities(sum(1 << capability for capability in kept) & held)


def drop_capabilities() -> None:
    """Gives up every capability; with no_new_privs, which the runner has set, for good. Raises OSError."""
    _capset(_NO_CAPABILITIES)


def _set_capabilities(mask: int) -> None:
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _capset(struct.pack("=6I", low, low, 0, high, high, 0))


def _capset(sets: bytes) -> None:
    if libc.capset(_CAPABILITY_HEADER, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _held_capabilities() -> int:
    with open("/proc/self/status", "rb") as file:
        line = next(line for line in file if line.startswith(b"CapPrm:"))
    return int(line.split()[1], 16)


def _try(pids: bool) -> str:
    """Enters in a copy of this process first, so that a refusal half-way leaves no half of it; why not."""
    reader, writer = os.pipe()
    copy = os.fork()
    if copy == 0:
        _trial(pids, writer)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(copy, 0)
    return said


def _trial(pids: bool, writer: int) -> NoReturn:
    try:
        _unshare(pids)
        if pids:
            first = os.fork()
            if first:
                os.waitpid(first, 0)
                os._exit(0)
            _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "")
    except OSError as error:
        os.write(writer, str(error).encode())
    finally:
        os._exit(0)


def _unshare(pids: bool) -> None:
    """New name spaces; users only where this process is not root already. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    flags = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWNET | (_NEWPID if pids else 0)
    if libc.unshare(flags | (NEW_USER if uid else 0)) != 0:
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    if uid:
        maps = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _mount("", "/", "", _MS_REC | _MS_PRIVATE, "")


def _become_first() -> None:
    """Forks: the copy goes on as process 1, this one waits for it and ends as it does."""
    first = os.fork()
    if first == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    os.closerange(0, 256)  # the daemon must see the runner's end of the socket, not ours
    _, status = os.waitpid(first, 0)
    os._exit(max(0, os.waitstatus_to_exitcode(status)))


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    if libc.mount(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target}: {os.strerror(number)}")
