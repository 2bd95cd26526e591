"""Jails made by firejail: name spaces over the machine's own file system. The weakest of the jails.

firejail is setuid root, with a history of holes in itself; the version that Debian ships is no longer
supported by its makers. It is here for machines that have nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

from rlef_lightning.execution.backends.helper import EVERYTHING, HelperExecutor
from rlef_lightning.execution.settings import Inside, Jail, View


class Firejail:
    """Builds firejail's command line."""

    drops_user = True
    maps_users = False
    promises: ClassVar[tuple[str, ...]] = tuple(
        name
        for name in EVERYTHING
        if name not in ("disk", "process_count")  # as root only
    )

    def __init__(self, binary: str):
        self._binary = binary

    def command(self, runner: Sequence[str], view: View) -> list[str]:
        """The runner below firejail's own process 1. Which files are seen is left to Landlock, inside."""
        return [
            self._binary, "--quiet", "--noprofile", "--deterministic-shutdown", "--net=none",
            "--ipc-namespace", "--private-dev", "--hostname=jail", f"--keep-fd={view.control_fd}", "--",
            *runner,
        ]  # fmt: skip

    def inside(self, view: View) -> Inside:
        """As an ordinary user firejail makes no user name space: the runner does, where it may."""
        root = os.geteuid() == 0
        return Inside(
            namespaces=not root, mounts=True, neighbours=0 if view.program_uid is not None else None
        )


class FirejailExecutor(HelperExecutor):
    """Runs programs in jails made by firejail. Prefer nsjail or bubblewrap where you can.

    Example: `class_path: rlef_lightning.execution.FirejailExecutor`, `init_args: {workers: 2}`.
    """

    program = "firejail"
    how_to_get = "Install it with your system's packages (Debian and Ubuntu: apt-get install firejail)"

    def _jail(self) -> tuple[type[Jail], dict[str, Any]]:
        return Firejail, {"binary": self.find(self.binary)}
