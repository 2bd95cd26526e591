"""Spare user ids, one per worker, so that the kernel counts and separates the processes of programs."""

from __future__ import annotations

import contextlib
import socket

from rlef_lightning.errors import ExecutorError

FIRST_USER, LAST_USER = 60_706, 61_183
"""Ids that neither Debian's nor systemd's table of dynamic users gives to anyone."""


class UserClaims:
    """User ids that no other daemon of this machine uses meanwhile; given back when the process ends."""

    def __init__(self) -> None:
        self._locks: list[socket.socket] = []
        self._next = FIRST_USER

    def claim(self) -> int:
        """The next free id. The claim is an abstract socket's name, which vanishes with its process."""
        while self._next <= LAST_USER:
            uid, self._next = self._next, self._next + 1
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with contextlib.suppress(OSError):
                lock.bind(f"\0rlef-lightning-user-{uid}")
                self._locks.append(lock)
                return uid
            lock.close()
        raise ExecutorError(f"no free user id in {FIRST_USER}..{LAST_USER}: too many workers on this machine")
