"""Jails made by nsjail: name spaces with users of their own, and a file system of what is needed only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rlef_lightning.execution.backends.helper import EVERYTHING, HelperExecutor
from rlef_lightning.execution.settings import Inside, Jail, View

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_LINKS = {"stdin": "/0", "stdout": "/1", "stderr": "/2", "fd": ""}
"""Names in /dev of a process's own descriptors, below /proc/self/fd."""


class Nsjail:
    """Builds nsjail's command line."""

    drops_user = True
    maps_users = True
    promises: ClassVar[tuple[str, ...]] = EVERYTHING

    def __init__(self, binary: str):
        self._binary = binary

    def command(self, runner: Sequence[str], view: View) -> list[str]:
        """The runner as process 1 of a new jail.

        nsjail's own limits are off, because the runner sets them per program; its default niceness of
        19 would starve programs beside a busy trainer.
        """
        shown = [part for path in view.readable for part in ("--bindmount_ro", path)]
        devices = [part for path in _DEVICES for part in ("--bindmount", path)]
        for name, number in _LINKS.items():
            devices += ["--symlink", f"/proc/self/fd{number}:/dev/{name}"]
        return [
            self._binary, "--mode", "o", "--really_quiet", "--keep_env", "--keep_caps", "--disable_rlimits",
            "--time_limit", "0", "--nice_level", "0", "--hostname", "jail", "--iface_no_lo", "--proc_rw",
            "--cwd", view.scratch, "--pass_fd", str(view.control_fd), *self._users(view), *shown, *devices,
            "--bindmount", view.scratch, "--", *runner,
        ]  # fmt: skip

    def _users(self, view: View) -> list[str]:
        """The runner is nobody in particular outside; programs keep their number.

        Inside it is root where programs are somebody else. Where they are not, it must not be: what the
        kernel closes to a process of the same user, it leaves open to root.
        """
        maps = [(0 if view.program_uid is not None else view.runner_uid, view.runner_uid)]
        maps += [(view.program_uid, view.program_uid)] if view.program_uid is not None else []
        return [part for inner, outer in maps for kind in "ug" for part in (f"-{kind}", f"{inner}:{outer}:1")]

    def inside(self, view: View) -> Inside:
        """Users are the jail's own, so the kernel counts its processes only: runner, template, program."""
        return Inside(neighbours=0 if view.program_uid is not None else 2)


class NsjailExecutor(HelperExecutor):
    """Runs programs in jails made by nsjail. The strongest tier.

    Example: `class_path: rlef_lightning.execution.NsjailExecutor`, `init_args: {workers: 2}`.
    """

    program = "nsjail"
    how_to_get = "Build it from https://github.com/google/nsjail (Debian has no package) and put it on PATH"

    def _jail(self) -> tuple[type[Jail], dict[str, Any]]:
        return Nsjail, {"binary": self.find(self.binary)}
