"""Resident memory of a program's processes together. Cheap while there is one, exact when it matters.

The address space of each process is bounded by the kernel; this is about their sum, where no control group
counts it. Pages that processes share after a fork are counted once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence

from .kernel import PR_SET_PDEATHSIG, prctl

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_GET_PDEATHSIG = 2
_libc = ctypes.CDLL(None, use_errno=True)


def memory_beyond(pids: Sequence[int], limit: int, uid: int | None) -> int:
    """Bytes that the processes hold together, when that is more than `limit`; else 0.

    Resident sizes come first: they count shared pages again for each process, so they are too large at
    worst. Only when they are does the exact count follow, which walks the page tables.
    """
    if len(pids) < 2 or sum(map(resident_bytes, pids)) <= limit:
        return 0
    with as_user(uid):
        total = sum(map(proportional_bytes, pids))
    return total if total > limit else 0


def resident_bytes(pid: int) -> int:
    """Of one process, with shared pages and those of files; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def proportional_bytes(pid: int) -> int:
    """Of one process, without pages of files, each page divided by the number of processes that map it.

    A process that keeps itself from being looked at is counted by its resident size.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.readlines()[1:])
        return 1024 * sum(int(fields[name].split()[0]) for name in (b"Pss_Anon", b"Pss_Shmem"))
    except (OSError, KeyError):
        return resident_bytes(pid)


@contextlib.contextmanager
def as_user(uid: int | None) -> Iterator[None]:
    """Opens files as the program's user meanwhile: a runner with few capabilities may look at it only so.

    The kernel forgets the signal at the parent's death whenever a user is changed; it is set again.
    """
    if uid is None:
        yield
        return
    farewell = ctypes.c_int()
    _libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(farewell), 0, 0, 0)
    group, user = _libc.setfsgid(uid), _libc.setfsuid(uid)
    try:
        yield
    finally:
        _libc.setfsuid(user)
        _libc.setfsgid(group)
        prctl(PR_SET_PDEATHSIG, farewell.value)


def waited_for_cpu_seconds(pid: int) -> float:
    """Seconds for which the main thread of a live process had to wait for a processor; 0 if not known."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0
