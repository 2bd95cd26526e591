"""A finished file or folder -> the place of the old one; found again after a kill in between."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def replace(part: Path, target: Path) -> None:
    """Put a folder or file in the target's place; what is in a folder must be on the disk already.

    A folder cannot be renamed over a full one: for a moment there is none, and the old one beside it. That
    is removed when names, too, are on the disk: a machine that loses its power keeps one of the two.
    """
    old = target.with_name(f".{target.name}.old")
    onto_disk(part)
    if target.exists():
        remove(old)  # else it is the only one: a kill came between these renames
        os.rename(target, old)
    os.rename(part, target)
    onto_disk(target.parent)
    remove(old)


def onto_disk(path: Path) -> None:
    """Force a file's bytes, or the names in a folder, onto the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def recover(target: Path) -> None:
    """Put the old one back where `replace` was killed between its two renames."""
    old = target.with_name(f".{target.name}.old")
    if not target.exists():
        with contextlib.suppress(FileNotFoundError):  # nothing to recover, or another rank was first
            os.rename(old, target)


def recover_all(folder: Path) -> None:
    """The same for every checkpoint that a kill has left so in a folder: `last`, `best`, any."""
    for old in folder.glob(".*.ckpt.old"):
        recover(folder / old.name.removeprefix(".").removesuffix(".old"))


def remove(path: Path) -> None:
    """A file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
