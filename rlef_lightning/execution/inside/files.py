"""The files that a program is given before its start, and the one that holds its answer after its end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def put_files(folder: str, files: Iterable[tuple[str, bytes]], uid: int | None) -> None:
    """Writes files of the program's user into its empty scratch folder; "name/" makes a folder."""
    for name, data in files:
        path = os.path.join(folder, name)
        if name.endswith("/"):
            os.mkdir(path, 0o700)
        else:
            _write(path, data)
        if uid is not None:
            os.chown(path, uid, uid, follow_symlinks=False)


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)


def read_answer(folder: str, name: str, uid: int | None, limit: int) -> bytes:
    """What the program wrote into a file, one byte beyond `limit` at most; nothing when there is none.

    Only a regular file of the program's own user counts: neither a link of either kind to what it
    could not read itself, nor a pipe or a device, on which reading would wait.
    """
    try:
        inside = os.open(folder, _READ | os.O_DIRECTORY)
    except OSError:
        return b""
    try:
        descriptor = os.open(name, _READ | os.O_NONBLOCK, dir_fd=inside)
    except OSError:
        return b""
    finally:
        os.close(inside)
    try:
        found, owner = os.fstat(descriptor), os.geteuid() if uid is None else uid
        counts = stat.S_ISREG(found.st_mode) and found.st_uid == owner
        return _read(descriptor, limit + 1) if counts else b""
    finally:
        os.close(descriptor)


def _read(descriptor: int, limit: int) -> bytes:
    """Up to `limit` bytes."""
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(limit)
