"""A copy of the standard library for programs, where the interpreter's own folder is closed to them.

Python under /root (pyenv, uv in a container) is the common case: the folder has mode 0700, and a
program that runs as another user could import only what the runner had imported before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from pathlib import Path

_LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3",
    "config-*", "*.opt-?.pyc", "*.a",
)  # fmt: skip


def readable_by_others(path: Path) -> bool:
    """True when any user may read the file and search every folder above it."""
    opened = bool(path.stat().st_mode & stat.S_IROTH)
    return opened and all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def python_home(scratch: str) -> str | None:
    """A value for PYTHONHOME under `scratch`, or None when the library is open to all where it is."""
    library = Path(os.__file__).resolve().parent
    if readable_by_others(library / "os.py"):
        return None
    home = Path(scratch) / "python"
    target = home / sys.platlibdir / library.name
    shutil.copytree(library, target, ignore=_LEFT_OUT, copy_function=_link_or_copy)
    return str(home)


def _link_or_copy(source: str, target: str) -> None:
    """A hard link costs no space; across file systems, or where links are refused, a copy."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def numpy_packages() -> tuple[str, ...]:
    """The folders to search for numpy: those of this interpreter's installed packages."""
    return tuple(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
