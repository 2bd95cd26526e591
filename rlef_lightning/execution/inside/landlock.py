"""Folders to read and a folder to write -> a Landlock ruleset that programs put themselves under.

Landlock is the kernel's sandbox for ordinary users: no helper program, no rights needed. See
landlock(7); the numbers are those of linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from .kernel import libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_BIND_TCP, _CONNECT_TCP = 1, 2
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2

_FIRST = (1 << 13) - 1
_READ = _READ_FILE | _READ_DIR | _EXECUTE
_OWN = _FIRST & ~(_MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK) | _REFER | _TRUNCATE
_ONLY_FOLDERS = ~(_EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE)
"""Rights that a rule on a single file must not name."""


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """The kernel's version of the interface; raises OSError where Landlock is missing or off."""
    return _call(_CREATE_RULESET, None, 0, _GET_VERSION)


def ruleset(readable: Iterable[str], devices: Iterable[str], writable: str) -> int:
    """A descriptor of a ruleset; paths that do not exist are passed over. Raises OSError.

    Everything else on the file system is refused, with TCP, abstract sockets and signals to processes
    outside, as far as the kernel's version knows them. Reading another process's memory or environment
    is refused by Landlock itself.
    """
    known = version()
    files = _handled_files(known)
    network = _BIND_TCP | _CONNECT_TCP if known >= 4 else 0
    attributes = _RulesetAttributes(files, network, _ABSTRACT_SOCKETS | _SIGNALS if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    rules = _call(_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    for path in readable:
        _allow(rules, path, _READ & files)
    for path in devices:
        _allow(rules, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & files)
    _allow(rules, writable, _OWN & files)
    return rules


def restrict_self(rules: int) -> None:
    """Puts this process and its later children under the ruleset; raises OSError."""
    _call(_RESTRICT_SELF, rules, 0)


def _handled_files(known: int) -> int:
    later = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE))
    return _FIRST | sum(right for since, right in later if known >= since)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= ~_ONLY_FOLDERS
        _call(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(_PathBeneath(rights, folder)), 0)
    finally:
        os.close(folder)


def _call(number: int, *arguments: object) -> int:
    """A system call that the C library has no function for; raises OSError."""
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
