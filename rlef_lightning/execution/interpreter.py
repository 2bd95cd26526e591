"""The interpreter that runners and programs see: the trainer's own, or a copy where others may not read it.

Python under /root (pyenv, uv in a container) is the common case: the folder has mode 0700, so that a
program that runs as another user could import only what the runner had imported before, and a jail
could not even start it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from rlef_lightning.execution.inside.folders import remove_tree

_LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3",
    "config-*", "*.opt-?.pyc", "*.a",
)  # fmt: skip
_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """What a runner is started with, and what must be readable for it."""

    python: str
    """The binary."""
    environment: dict[str, str]
    """What the binary needs to find its libraries."""
    readable: tuple[str, ...]
    """Files and folders to be seen; those that do not exist are left out."""


def interpreter(folder: str | None, packages: tuple[str, ...]) -> Interpreter:
    """The running interpreter, or a copy of it under `folder` where it is closed to other users.

    Without a folder it is for the present user only, and never copied.

    `packages`: further folders that programs import from.
    """
    library = Path(os.__file__).resolve().parent
    binary = Path(getattr(sys, "_base_executable", sys.executable)).resolve()  # of a venv: what it stands on
    environment: dict[str, str] = {}
    closed = not (readable_by_others(library / "os.py") and readable_by_others(binary))
    if folder is not None and closed:
        home, library = _copy(Path(folder), library, binary)
        binary = home / "bin" / binary.name
        environment = {"PYTHONHOME": str(home), "LD_LIBRARY_PATH": str(home / "lib")}
    paths = (*_SYSTEM, str(library), str(binary), *environment.values(), *packages)
    seen = tuple(path for path in dict.fromkeys(paths) if os.path.exists(path))
    return Interpreter(python=str(binary), environment=environment, readable=_outermost(seen))


def readable_by_others(path: Path) -> bool:
    """True when any user may read the file and search every folder above it."""
    opened = bool(path.stat().st_mode & stat.S_IROTH)
    return opened and all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def _outermost(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Without those that lie below another one."""
    return tuple(p for p in paths if not any(p != q and p.startswith(f"{q}/") for q in paths))


def _copy(folder: Path, library: Path, binary: Path) -> tuple[Path, Path]:
    """The home of a copy under `folder`, and its library."""
    home = folder / "python"
    target = home / sys.platlibdir / library.name
    shutil.copytree(library, target, ignore=_LEFT_OUT, copy_function=_link_or_copy)
    for source in (binary, _shared_library()):
        if source is not None:
            kept = home / ("bin" if source is binary else "lib") / source.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(str(source), str(kept))
    return home, target


def _shared_library() -> Path | None:
    """libpython, where the binary is linked to one of its own."""
    name, place = sysconfig.get_config_var("INSTSONAME"), sysconfig.get_config_var("LIBDIR")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not name or not place:
        return None
    path = Path(place) / name
    return path if path.exists() else None


def _link_or_copy(source: str, target: str) -> None:
    """A hard link costs no space; across file systems, or where links are refused, a copy."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def copy_inside(folder: str) -> str:
    """A copy of what runs in the jail, so that the jail shows nothing of the project; its parent folder."""
    source = Path(__file__).parent / "inside"
    boot = Path(folder) / "boot"
    if boot.exists():
        remove_tree(str(boot))
    shutil.copytree(source, boot / "inside", ignore=shutil.ignore_patterns("*.pyc.*"))
    for path in (boot, *boot.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return str(boot)


def numpy_packages() -> tuple[str, ...]:
    """The folders to search for numpy: those of this interpreter's installed packages."""
    return tuple(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
