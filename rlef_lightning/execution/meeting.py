"""The folder where ranks find their daemon: one lock, and the socket of the daemon that lives.

The folder itself is the lock (flock). Whoever connects, starts a daemon or takes a socket away holds it, so
that one of many is elected, and a daemon that ends misses nobody. A socket's name is used once only: taking
away a dead daemon's socket can never hit its successor's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.job import own_prefix

BACKLOG = 512
"""Ranks that may wait for a daemon that starts."""


class BusyError(Exception):
    """Somebody else holds the folder, or it has just been removed: try again in a moment."""


@contextmanager
def held(folder: str, *, create: bool = True) -> Iterator[int]:
    """Locks the folder, and removes it in the end if it is empty; yields its descriptor.

    Raises BusyError, ExecutorError when the folder is not ours alone, or OSError.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
    descriptor = _open(folder)
    try:
        _lock(descriptor, folder)
        try:
            yield descriptor
        finally:
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked process may hold a copy of the descriptor
    finally:
        os.close(descriptor)


def _open(folder: str) -> int:
    """A descriptor of the folder, which is no link and no other user's; never follows a link."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BusyError from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            raise
        raise _refusal(folder, "a link, a file or another user's folder") from None
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return descriptor
    os.close(descriptor)
    raise _refusal(folder, f"of user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}")


def _refusal(folder: str, found: str) -> ExecutorError:
    return ExecutorError(
        f"the ranks of this node would meet in {folder}, but it is {found}; needed: a folder of user"
        f" {os.geteuid()} with mode 0700. Remove it, or set XDG_RUNTIME_DIR to a folder of your own"
    )


def _lock(descriptor: int, folder: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.lstat(folder)
    except (BlockingIOError, FileNotFoundError):
        raise BusyError from None
    if not os.path.samestat(there, os.fstat(descriptor)):
        raise BusyError  # removed, and made anew by another


def join(descriptor: int) -> tuple[str, socket.socket] | None:
    """The name of the daemon's socket in a held folder, and a connection to it; None: there is no daemon.

    Takes away the sockets of daemons that have died. Raises BusyError when too many wait already.
    """
    for name in os.listdir(descriptor):
        try:
            return name, connect(descriptor, name)
        except BlockingIOError:
            raise BusyError from None
        except (ConnectionRefusedError, FileNotFoundError):
            remove(descriptor, name)
    return None


def connect(descriptor: int, name: str) -> socket.socket:
    """A connection to a socket in a held folder, whose daemon may still have to start; raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(_address(descriptor, name))
    except BaseException:
        sock.close()
        raise
    return sock


def listen(descriptor: int) -> tuple[str, socket.socket]:
    """A new socket in a held folder, and its name; from now on others can connect."""
    name = secrets.token_hex(8)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(_address(descriptor, name))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return name, listener


def remove(descriptor: int, name: str) -> None:
    """Takes a socket away, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=descriptor)


def _address(descriptor: int, name: str) -> str:
    """A path of any folder in few characters (a socket's address may have 107), and no other folder's."""
    return f"/proc/self/fd/{descriptor}/{name}"


def sweep(parent: str) -> None:
    """Removes this user's folders whose daemons were killed; those in use, or of other machines, stay."""
    for folder in Path(parent).glob(f"{own_prefix()}*"):
        with (
            contextlib.suppress(BusyError, ExecutorError, OSError),
            held(str(folder), create=False) as descriptor,
        ):
            if joined := join(descriptor):
                joined[1].close()
