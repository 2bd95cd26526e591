"""The few things of the kernel that the runner needs: seals, pipes, limits, the tree of processes, clocks."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import sys
import time

PIPE_BYTES = 1 << 20
OPEN_FILES = 256
"""Descriptors of the runner, and of each program."""
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """prctl(2); raises OSError."""
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def empty_stdin() -> tuple[int, int]:
    """A regular file in memory, as (writable descriptor, read-only descriptor).

    Regular, because programs size their read by fstat; a pipe would make some of them fail.
    """
    writable = os.memfd_create("stdin", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    return writable, os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)


def fill_and_seal(writable: int, data: bytes) -> None:
    """Gives the file its bytes; nobody can change it any more."""
    view = memoryview(data)
    while view:
        view = view[os.write(writable, view) :]
    fcntl.fcntl(writable, fcntl.F_ADD_SEALS, _SEALS)


def pipe() -> tuple[int, int]:
    """A pipe (read end that does not block, write end)."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    return reader, writer


def output_pipe(uid: int | None) -> tuple[int, int]:
    """A large pipe; `uid` may open it anew, as `open("/dev/stdout", "w")` does."""
    reader, writer = pipe()
    with contextlib.suppress(OSError):  # beyond the user's share of pipe memory: the default size does
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    if uid is not None:
        os.fchown(writer, uid, uid)
    return reader, writer


def children_of(pid: int) -> list[int]:
    """Direct children of a process, those of all its threads; empty when it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants_of(pid: int) -> list[int]:
    """All processes below `pid`, parents before children."""
    found = children_of(pid)
    for child in found:  # grows while it is walked: breadth first
        found += children_of(child)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a live process with all its threads, without its children."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's encoding of "process clock of pid"
    except OSError:
        return 0.0


def waited_cpu_seconds(pid: int) -> float:
    """CPU seconds of the children that a live process has waited for, in the kernel's 10 ms ticks."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Sets a resource limit, never above the one in force."""
    ceiling = resource.getrlimit(kind)[1]
    ceiling = sys.maxsize if ceiling == resource.RLIM_INFINITY else ceiling
    resource.setrlimit(kind, (min(soft, ceiling), min(soft if hard is None else hard, ceiling)))
