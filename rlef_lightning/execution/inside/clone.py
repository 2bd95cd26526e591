"""clone(2) with flags that `os.fork` does not have. For processes with a single thread.

Python's own repairs after a fork are about other threads and about hooks that modules have registered; both
would touch, and so copy, some hundred pages in each copy.
"""

from __future__ import annotations

import ctypes
import errno
import os

CLONE_FILES, CLONE_PARENT = 0x400, 0x8000
_CHILD_CLEARTID, _CHILD_SETTID = 0x200000, 0x1000000
_PR_GET_TID_ADDRESS = 40
_CALLS = {"x86_64": 56, "aarch64": 220}

_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, which the copy then holds as well
_syscall = _libc.syscall
_syscall.restype, _syscall.argtypes = ctypes.c_long, [ctypes.c_long] * 6


def _thread_id_address() -> int:
    """Where the C library keeps the main thread's id; 0 where the kernel does not tell."""
    address = ctypes.c_ulong()
    refused = _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0)
    return 0 if refused else address.value


_THREAD_ID_AT = _thread_id_address()
_LIKE_FORK = _CHILD_CLEARTID | _CHILD_SETTID if _THREAD_ID_AT else 0


def clone(flags: int, end_signal: int) -> int:
    """Like `os.fork`: the copy's id, or 0 in the copy. Raises OSError.

    Args:
        flags: CLONE_... of clone(2).
        end_signal: Sent to the parent at the copy's end; with CLONE_PARENT it is the caller's.
    """
    machine = os.uname().machine
    number = _CALLS.get(machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"there is no number of clone for {machine}")
    tail = (_THREAD_ID_AT, 0) if machine == "x86_64" else (0, _THREAD_ID_AT)
    pid = int(_syscall(number, flags | _LIKE_FORK | end_signal, 0, 0, *tail))
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"clone: {os.strerror(code)}")
    return pid
