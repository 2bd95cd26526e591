"""The program's scratch folder: emptied between runs, whatever the program has built in it."""

from __future__ import annotations

import os
import stat


def is_empty(path: str) -> bool:
    """True for a folder with nothing in it that this process can list."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode) and not os.listdir(path)
    except OSError:
        return False


def empty_folder(path: str, uid: int | None) -> bool:
    """Makes `path` an empty folder of the program's user; True when it is a new one.

    Most programs write no file: a quick case.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)  # without a user of its own, a program may replace the folder
        elif os.listdir(path):
            remove_tree(path)
        else:
            os.chmod(path, 0o700)
            return False
    except FileNotFoundError:
        pass
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, uid)
    return True


def remove_tree(path: str) -> None:
    """Removes a folder with all in it; follows no link. Nothing of the program is alive by now.

    A program may have nested folders beyond any path length or made them unreadable: each is opened
    up, lifted into one flat folder, and emptied there, so that neither matters.
    """
    trash = f"{path}.{os.urandom(8).hex()}"  # nobody can have prepared it
    os.mkdir(trash, 0o700)
    found, count = [path], 0
    pending: list[str] = []
    while found or pending:
        for folder in found:
            os.chmod(folder, 0o700)
            lifted = os.path.join(trash, str(count))
            os.rename(folder, lifted)
            pending.append(lifted)
            count += 1
        found = remove_files(pending[-1])
        if not found:  # else again, once its folders have been lifted out
            os.rmdir(pending.pop())
    os.rmdir(trash)


def remove_files(folder: str) -> list[str]:
    """Removes whatever is not a folder; returns the folders that are left."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                os.unlink(entry.path)
    return folders
