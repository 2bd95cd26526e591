"""Pages that every program touches -> had at the making of its process, not one fault after another later.

A process and its copy share their pages until one of them writes; then the kernel copies that page, in a
fault of its own. The smallest Python program has 400 such faults, a fifth of all the time that it takes.
The kernel copies a page at once, while it makes the process, if a device might be writing to it ("Do early
cow for pinned pages", Linux 5.9), and it takes that for granted of buffers that are registered with
io_uring. Which pages are wanted is found out by a program that is run for practice.

Nothing here is a wall. Where io_uring, or that much locked memory, is not allowed, all goes on as it
would without, only slower.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

_SETUP, _REGISTER, _REGISTER_BUFFERS = 425, 427, 0  # the same numbers on all architectures
_PARAMETERS_BYTES = 120
_PRESENT, _OF_FILE_OR_SHARED, _MAPPED_ONCE = 1 << 63, 1 << 61, 1 << 56  # Documentation/admin-guide/mm/pagemap
_READ, _WRITE, _EXECUTE = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
_LARGE = 16
"""Pages that the kernel maps in one fault of a file; a smaller mapping has nothing to gain."""
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class Range(NamedTuple):
    """Adjacent pages, as the numbers of the first one and of the one behind the last."""

    start: int
    stop: int
    of_file: bool
    """True: a private mapping of a file, such as a library's variables."""


class _Buffer(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def open_ring() -> int | None:
    """Descriptor of what pages are pinned by; None where it is not allowed.

    To be opened while the runner has all its rights: if CAP_IPC_LOCK is among them, its pages do not count
    towards the user's locked memory (RLIMIT_MEMLOCK).
    """
    ring = int(_libc.syscall(_SETUP, 1, ctypes.create_string_buffer(_PARAMETERS_BYTES)))
    return ring if ring >= 0 else None


def pin(ring: int | None, ranges: Sequence[Range]) -> bool:
    """Lets all later copies of this process begin with pages of their own there; False: it cannot be had.

    Older kernels pin no pages of files.
    """
    for chosen in (ranges, [one for one in ranges if not one.of_file]):
        if ring is not None and chosen and _register(ring, chosen):
            return True
    return False


def _register(ring: int, ranges: Sequence[Range]) -> bool:
    size = mmap.PAGESIZE
    buffers = (_Buffer * len(ranges))(
        *(_Buffer(one.start * size, (one.stop - one.start) * size) for one in ranges)
    )
    return bool(_libc.syscall(_REGISTER, ring, _REGISTER_BUFFERS, buffers, len(ranges)) == 0)


def written_pages(pid: int) -> list[Range]:
    """Those that a live process has for itself alone: after a fork, the ones that it has written since.

    Raises OSError where the kernel does not tell.
    """
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        return [
            one
            for start, stop, of_file in _writable(pid)
            for one in _own(file.fileno(), start, stop, of_file)
        ]


def _own(pagemap: int, start: int, stop: int, of_file: bool) -> Iterator[Range]:
    entries = memoryview(os.pread(pagemap, 8 * (stop - start), 8 * start)).cast("Q")
    wanted, mask = _PRESENT | _MAPPED_ONCE, _PRESENT | _MAPPED_ONCE | _OF_FILE_OR_SHARED
    for own, group in groupby(enumerate(entries, start), lambda entry: entry[1] & mask == wanted):
        if own:
            first, *rest = (number for number, _ in group)
            yield Range(first, (rest[-1] if rest else first) + 1, of_file)


def _writable(pid: int) -> Iterator[tuple[int, int, bool]]:
    return ((start, stop, of_file) for start, stop, kind, of_file in _mappings(pid) if kind == "rw-p")


def _mappings(pid: int | str) -> Iterator[tuple[int, int, str, bool]]:
    """(first page, the one behind the last, rights, whether of a file) of each."""
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            addresses, kind, _, _, inode = line.split()[:5]
            start, stop = (int(address, 16) // mmap.PAGESIZE for address in addresses.split("-"))
            yield start, stop, kind, inode != "0"


def hand_down_code() -> None:
    """Lets copies of this process begin with the pages of its libraries that it has read.

    The kernel leaves a mapped file out of a copy's page tables, to be filled in by faults, unless one of its
    pages has been written: so one byte of each is, with itself.
    """
    for start, stop, kind, of_file in list(_mappings("self")):
        if of_file and kind in ("r--p", "r-xp") and stop - start >= _LARGE:
            _rewrite_byte(start * mmap.PAGESIZE, (stop - start) * mmap.PAGESIZE, "x" in kind)


def _rewrite_byte(address: int, size: int, executable: bool) -> None:
    rights = _READ | (_EXECUTE if executable else 0)
    if _libc.mprotect(address, size, rights | _WRITE) == 0:  # a hardened system refuses
        _libc.memmove(address, address, 1)
        if _libc.mprotect(address, size, rights) != 0:
            raise OSError(ctypes.get_errno(), "mprotect: code stays writable")
