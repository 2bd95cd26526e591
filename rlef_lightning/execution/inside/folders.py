"""The program's scratch folder: emptied between runs, whatever the program has built in it."""

from __future__ import annotations

import os
import stat


def empty_folder(path: str, uid: int | None) -> None:
    """Makes `path` an empty folder of the program's user. Most programs write no file: a quick case."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode) and not os.listdir(path):
            os.chmod(path, 0o700)
            return
        remove_tree(path)
    except FileNotFoundError:
        pass
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, uid)


def remove_tree(path: str) -> None:
    """Removes a folder with all in it; follows no link. Nothing of the program is alive by now.

    A program may have nested folders beyond any path length or made them unreadable: each is opened
    up, lifted into one flat folder, and emptied there, so that neither matters.
    """
    trash = path + ".trash"
    os.makedirs(trash, exist_ok=True)
    pending = [entry.path for entry in os.scandir(trash)]
    count = len(pending)
    unseen = [path]
    while unseen or pending:
        for folder in unseen:
            if not os.path.islink(folder):
                os.chmod(folder, 0o700)
            while os.path.lexists(lifted := os.path.join(trash, str(count))):
                count += 1
            os.rename(folder, lifted)
            pending.append(lifted)
        emptied = pending.pop()
        unseen = remove_files(emptied)
        if unseen:
            pending.append(emptied)  # again, once its folders have been lifted out
        else:
            os.rmdir(emptied)
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
