"""The daemon's temporary folder: made by the client, locked by the daemon, swept when both were killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

from rlef_lightning.execution.inside.folders import remove_tree

PREFIX = "rlef-executor-"
HALF_REMOVED_S = 3600.0
"""Seconds after which nobody can still be at removing a folder (they have a point in their names then)."""
_LOCK = "lock"


def new_scratch() -> str:
    """A new folder that no sweep touches before its daemon has locked it."""
    return tempfile.mkdtemp(prefix=PREFIX)


def hold_scratch(scratch: str) -> int:
    """Marks the folder as in use until the returned descriptor, hence this process, is gone.

    Locked first and named afterwards: a sweep finds either no lock or a held one.
    """
    os.chmod(scratch, 0o711)  # programs of other users pass through it
    unnamed = os.path.join(scratch, f"{_LOCK}.new")
    lock = os.open(unnamed, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(unnamed, os.path.join(scratch, _LOCK))
    return lock


def lacks_room(folder: str, needed_bytes: int) -> bool:
    """True when the disk of the folder has no room for so many bytes, or for one more file."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < needed_bytes or (disk.f_files > 0 and disk.f_favail == 0)


def sweep_abandoned(parent: str) -> None:
    """Removes the folders of this user's daemons that died together with their trainers."""
    for folder in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # locked, another user's, or swept by somebody else
            found = folder.lstat()
            if found.st_uid != os.geteuid():
                continue
            if "." not in folder.name:
                remove_abandoned(folder)
            elif time.time() - found.st_mtime > HALF_REMOVED_S:
                remove_tree(str(folder))  # what was killed while it removed it has taken the lock away first


def remove_abandoned(folder: Path) -> None:
    """Removes the folder of a dead daemon; raises OSError when there is no lock or a daemon holds it."""
    lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(str(folder))
    finally:
        os.close(lock)
