"""A control group per worker, where the machine lets us make one: memory and processes of a jail together.

Both interfaces of the kernel are known: version 2, and version 1, where memory and pids are apart. The
groups belong to the daemon, because a jail's helper that is killed would leave its own behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIPS = Path("/proc/self/cgroup")
_PREFIX = "rlef-"


@dataclass(frozen=True, slots=True)
class _Files:
    """Names of one version's files."""

    memory: str
    swap: str
    """Bounds memory and swap together (version 1), or swap alone (version 2)."""
    kills: str


_V1 = _Files("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control")
_V2 = _Files("memory.max", "memory.swap.max", "memory.events")


class Group:
    """A worker's control groups.

    Example: Group.make(0) is None where the machine does not allow any.
    """

    def __init__(self, memory: Path, pids: Path, files: _Files):
        self._folders = list(dict.fromkeys((memory, pids)))
        self._memory, self._pids, self._files = memory, pids, files
        self._limit: int | None = None
        self._processes: int | None = None
        self._kills_fd = -1

    @staticmethod
    def make(index: int) -> Group | None:
        """A new, empty group of this daemon, or None."""
        name = f"{_PREFIX}{os.getpid()}-{index}"
        for memory, pids, files in _candidates():
            group = Group(memory / name, pids / name, files)
            if group._create():
                return group
        return None

    @property
    def gates(self) -> list[str]:
        """Files that a process writes "0" to in order to join."""
        return [str(folder / "cgroup.procs") for folder in self._folders]

    def limit_memory(self, size: int) -> None:
        """Bytes of memory, file pages in memory included, of all processes together. Raises OSError."""
        if size == self._limit:
            return
        self._limit = None  # whatever fails below, the next run tries again
        with contextlib.suppress(OSError):  # version 1: never above the limit with swap; lifted first
            self._write(self._files.swap, "max" if self._files is _V2 else "-1")
        self._write(self._files.memory, str(size))
        with contextlib.suppress(OSError):  # where the kernel does not count swap
            self._write(self._files.swap, "0" if self._files is _V2 else str(size))
        self._limit = size

    def limit_processes(self, count: int) -> None:
        """Processes and threads. Raises OSError."""
        if count != self._processes:
            (self._pids / "pids.max").write_text(str(count))
            self._processes = count

    def kills(self) -> int:
        """How often the kernel has killed a process of the group for its memory."""
        with contextlib.suppress(OSError):
            if self._kills_fd < 0:  # asked for around every run: opening it anew costs ten times the reading
                self._kills_fd = os.open(self._memory / self._files.kills, os.O_RDONLY | os.O_CLOEXEC)
            for line in os.pread(self._kills_fd, 4096, 0).splitlines():
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
        return 0

    def remove(self) -> None:
        """Removes the group; all its processes have ended, the kernel may need a moment to see it."""
        if self._kills_fd >= 0:
            os.close(self._kills_fd)
            self._kills_fd = -1
        for folder in self._folders:
            for _ in range(50):
                if _removed(folder):
                    break
                time.sleep(0.01)

    def _create(self) -> bool:
        try:
            for folder in self._folders:
                folder.mkdir()
            for file in (self._memory / self._files.memory, self._pids / "pids.max"):
                os.close(os.open(file, os.O_WRONLY))
            return all(os.access(gate, os.W_OK) for gate in self.gates)
        except OSError:
            for folder in self._folders:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return False

    def _write(self, name: str, text: str) -> None:
        (self._memory / name).write_text(text)


def sweep_groups() -> None:
    """Removes the groups of daemons that were killed before they could."""
    for memory, pids, _ in _candidates():
        for folder in (*memory.glob(f"{_PREFIX}*"), *pids.glob(f"{_PREFIX}*")):
            daemon = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if not Path("/proc", daemon).exists():
                _removed(folder)


def _removed(folder: Path) -> bool:
    """True when the group is gone; False while a process is in it."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _candidates() -> list[tuple[Path, Path, _Files]]:
    """Folders (memory, pids) in which a group might be made.

    Our own group, so that what bounds the trainer bounds the programs, too. Version 2 lets no group
    with processes have limited groups below it: there, a sibling of ours.
    """
    own = _memberships()
    found = []
    if "memory" in own and "pids" in own:
        found.append((_ROOT / "memory" / own["memory"], _ROOT / "pids" / own["pids"], _V1))
    for root in (_ROOT, _ROOT / "unified"):
        if "" in own and (root / "cgroup.controllers").exists():
            folder = root / own[""]
            found += [(each, each, _V2) for each in dict.fromkeys((folder, max(folder.parent, root)))]
    return found


def _memberships() -> dict[str, str]:
    """Controller -> path of this process's group, without the leading slash; "" is version 2."""
    with contextlib.suppress(OSError):
        lines = _MEMBERSHIPS.read_text().splitlines()
        fields = [line.split(":", 2) for line in lines]
        return {name: path.lstrip("/") for _, names, path in fields for name in names.split(",")}
    return {}
