"""Jails made by bubblewrap: name spaces, and a file system of what is needed only. Runs unprivileged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from rlef_lightning.execution.backends.helper import EVERYTHING, HelperExecutor
from rlef_lightning.execution.settings import Inside, Jail, View

_CAPABILITIES = ("SYS_ADMIN", "SETUID", "SETGID", "KILL", "CHOWN", "FOWNER", "DAC_OVERRIDE", "SETPCAP")
"""What the runner needs to mount its scratch folder and to lower itself and programs; it drops the rest."""


class Bubblewrap:
    """Builds bwrap's command line."""

    drops_user = True
    maps_users = False
    promises: ClassVar[tuple[str, ...]] = EVERYTHING

    def __init__(self, binary: str):
        self._binary = binary

    def command(self, runner: Sequence[str], view: View) -> list[str]:
        """The runner as process 1 of a new jail; as an ordinary user, in a user name space."""
        users = [] if os.geteuid() == 0 else ["--unshare-user", "--uid", "0", "--gid", "0"]
        shown = [part for path in view.readable for part in self._shown(path)]
        capabilities = [part for name in _CAPABILITIES for part in ("--cap-add", f"CAP_{name}")]
        return [
            self._binary, *users, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
            "--unshare-cgroup-try", "--hostname", "jail", "--as-pid-1", "--die-with-parent", "--cap-drop",
            "ALL", *capabilities, *_parents((*view.readable, view.scratch)), "--dev", "/dev", *shown,
            "--proc", "/proc", "--bind", view.scratch, view.scratch, "--chdir", view.scratch, "--", *runner,
        ]  # fmt: skip

    def _shown(self, path: str) -> list[str]:
        """Links of the root folder (/bin to /usr/bin) are made anew; all else is bound."""
        if os.path.islink(path):
            return ["--symlink", os.readlink(path), path]
        return ["--ro-bind", path, path]

    def inside(self, view: View) -> Inside:
        """As an ordinary user the jail has a user name space, in which only runner and template count."""
        return Inside(neighbours=0 if view.program_uid is not None else 2)


def _parents(paths: Sequence[str]) -> list[str]:
    """Folders above what is shown, open to programs; bwrap would make them for its own user only."""
    folders = {str(folder): None for path in paths for folder in reversed(Path(path).parents)}
    inner = [folder for folder in folders if folder != "/" and not os.path.islink(folder)]
    return [part for folder in inner for part in ("--perms", "0755", "--dir", folder)]


class BubblewrapExecutor(HelperExecutor):
    """Runs programs in jails made by bubblewrap.

    Example: `class_path: rlef_lightning.execution.BubblewrapExecutor`, `init_args: {workers: 2}`.
    """

    program = "bwrap"
    how_to_get = "Install it with your system's packages (Debian and Ubuntu: apt-get install bubblewrap)"

    def _jail(self) -> tuple[type[Jail], dict[str, Any]]:
        return Bubblewrap, {"binary": self.find(self.binary)}
