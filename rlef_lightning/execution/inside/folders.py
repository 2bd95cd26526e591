"""The program's scratch folder: a new one for each run, whatever the last program has made of the old one."""

from __future__ import annotations

import contextlib
import os
import stat


def is_empty(path: str) -> bool:
    """True for a folder with nothing in it that this process can list."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode) and not os.listdir(path)
    except OSError:
        return False


def new_folder(path: str, uid: int | None) -> None:
    """Puts a new, empty folder of the program's user in the place of whatever is at `path`.

    Never the old one, emptied: its attributes, default rights, flags and times would tell the next program
    something. Most programs write no file: a quick case.
    """
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        os.unlink(path)  # without a user of its own, a program may replace the folder
    except OSError:
        remove_tree(path)
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, uid)


def restore(path: str) -> None:
    """Makes a folder that cannot be a new one look as before: its mode, its times, no attributes.

    For those above the scratch folder, which a program of the same user may have changed, and closed to us.
    On mounts that nobody can write to, nobody has.
    """
    for act in (lambda: os.chmod(path, 0o711), lambda: os.utime(path), lambda: strip(path)):
        with contextlib.suppress(OSError):
            act()


def strip(path: str) -> None:
    """Removes the attributes that a program may have set, access lists among them; raises OSError."""
    for name in os.listxattr(path):
        if name.startswith(("user.", "system.posix_acl_")):
            os.removexattr(path, name)


def keep_only(path: str) -> None:
    """Removes whatever lies beside `path`."""
    above, kept = os.path.split(path)
    for name in os.listdir(above):
        if name != kept:
            remove(os.path.join(above, name))


def remove(path: str) -> None:
    """Removes a file, or a folder with all in it."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        remove_tree(path)
    else:
        os.unlink(path)


def remove_tree(path: str) -> None:
    """Removes a folder with all in it; follows no link. Nothing of the program is alive by now.

    A program may have nested folders beyond any path length or made them unreadable: each is opened
    up, lifted into the topmost, and emptied there, so that neither matters. Nothing is made for that: the
    program may have used up the last file of the file system.
    """
    word = os.urandom(8).hex()  # nobody can have prepared names with it
    doomed, count = f"{path}.{word}", 0
    os.rename(path, doomed)
    while folders := clear(doomed):
        for folder in folders:
            for inner in clear(folder):
                os.chmod(inner, 0o700)  # else it cannot be moved
                os.rename(inner, os.path.join(doomed, f"{word}.{count}"))
                count += 1
            os.rmdir(folder)
    os.rmdir(doomed)


def clear(folder: str) -> list[str]:
    """Opens a folder up and removes whatever in it is not a folder; returns the folders that are left."""
    os.chmod(folder, 0o700)
    with os.scandir(folder) as found:
        entries = list(found)
    folders = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        else:
            os.unlink(entry.path)
    return folders
