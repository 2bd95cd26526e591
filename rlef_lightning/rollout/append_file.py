"""Records -> the end of a file that one process writes: what is written survives a kill and a full disk.

A record is handed to the system in one call as soon as it is there, so a run that is killed loses none;
what is torn is at most the last line. About every ten seconds the file is forced onto the disk, so a machine
that loses its power loses the records of the last seconds. This file knows lines, not what they say.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlef_lightning.errors import StoreError
from rlef_lightning.rollout.records import record_line

SYNC_S = 10.0
"""Seconds after which written records are forced onto the disk."""
RESERVE_BYTES = 32 << 20
"""Set aside beside the file, and given up when the disk is full: room for what was finished by then."""
_LOST = "the record that was to be written is lost"
_UNSURE = "what ended in the last seconds may not be on the disk"


class AppendFile:
    """A file that is locked and appended to.

    Args:
        path: The file; its folder is made if it is missing.
        reserve: Where room is set aside while the file is open.

    Raises:
        StoreError: the folder or file cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, reserve: Path) -> None:
        self.path = path
        self._reserve = reserve
        self._synced_at = time.monotonic()
        self._unsynced: list[bytes] = []  # lines since then, which end the file
        self._end = 0
        self._file = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._allocate_reserve()
        except OSError as error:
            self.close()
            raise self._failed(error) from error

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._end = os.fstat(self._file).st_size
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            self._file = -1
            raise StoreError(
                f"{self.path} is being written by another process: end that run first, or give this one a "
                "folder of its own (data.store.folder)"
            ) from error
        except OSError:
            pass  # a file system without locks

    def _allocate_reserve(self) -> None:
        reserve = os.open(self._reserve, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(reserve, 0, RESERVE_BYTES)
        finally:
            os.close(reserve)

    @property
    def size_bytes(self) -> int:
        """Up to the last whole record."""
        return self._end

    def cut(self, size_bytes: int) -> None:
        """Forget what stands behind."""
        os.ftruncate(self._file, size_bytes)
        self._end = size_bytes

    def set_aside(self, aside: Path) -> None:
        """Rename what there is and go on with an empty file."""
        try:
            os.replace(self.path, aside)
            os.close(self._file)
            self._file = -1
            self._open()
        except OSError as error:
            raise self._failed(error) from error

    def append(self, record: Mapping[str, Any], *, sync: bool = False) -> None:
        """Write a record; once this returns, a kill does not lose it; with `sync`, nor does a loss of power.

        Raises:
            StoreError: it could not be written, or only by giving up the reserve; the run must end.
        """
        line, end = record_line(record), self._end
        try:
            self._write(line)
            self._sync_if(sync)
        except OSError as error:
            self._rescue(line, end, error)

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)
        self._unsynced.append(line)

    def _sync_if(self, wanted: bool) -> None:
        if wanted or time.monotonic() - self._synced_at > SYNC_S:
            os.fdatasync(self._file)
            self._synced_at = time.monotonic()
            self._unsynced.clear()

    def _rescue(self, line: bytes, end: int, error: OSError) -> None:
        """The disk is full: the reserve makes room for the record, and the run ends.

        Or it failed: what it was given since it last had everything is written once more.
        """
        self._reserve.unlink(missing_ok=True)
        try:
            if self._end == end:
                self._write(line)
            self._rewrite()
            self._sync_if(True)
        except OSError as again:
            raise self._failed(again, _LOST if self._end == end else _UNSURE) from error
        raise self._failed(error) from error

    def _rewrite(self) -> None:
        """Hand over the last lines again, in place: the kernel may drop what it could not bring to the disk,
        and call the next `fdatasync` a success (https://lwn.net/Articles/752063)."""
        data = b"".join(self._unsynced)
        file = os.open(self.path, os.O_WRONLY)  # the other one appends, wherever it is told to write
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(file, data[done:], self._end - len(data) + done)
        finally:
            os.close(file)

    def _failed(self, error: OSError, kept: str = "no finished episode is lost") -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "Free some disk" if full else "Make the folder writable"
        return StoreError(
            f"cannot write to {self.path}: {error.strerror}; {kept}. {cure}, or move the folder elsewhere "
            "and set data.store.folder to it; then go on with --ckpt_path last"
        )

    def sync_folder(self) -> None:
        """Force the file's entry in its folder onto the disk, too: of a new file."""
        handle = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self) -> None:
        """Release the file and the reserve; safe to call twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
            self._reserve.unlink(missing_ok=True)
