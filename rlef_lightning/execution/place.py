"""Where and as whom the programs of one worker run: folders, users, interpreter, control group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from rlef_lightning.execution.cgroups import Group, sweep_groups
from rlef_lightning.execution.interpreter import Interpreter, copy_inside, interpreter, numpy_packages
from rlef_lightning.execution.settings import Jail, Settings, View
from rlef_lightning.execution.users import UserClaims


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and as whom the programs of one worker run."""

    scratch: str
    runner_uid: int
    """The runner's own user outside."""
    uid: int | None
    """The programs' own user; None: the runner's."""
    interpreter: Interpreter
    boot: str
    """The folder with `inside` in it."""
    packages: tuple[str, ...]
    """Folders to import numpy from; empty: programs have the standard library only."""
    group: Group | None
    """The control group that bounds the worker; None: there is none on this machine."""

    @property
    def environment(self) -> Mapping[str, str]:
        """All that a runner, and with it a program, finds in its environment."""
        folder = os.path.join(self.scratch, "disk", "run")
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder,
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", **self.interpreter.environment,
        }  # fmt: skip

    def view(self, control_fd: int) -> View:
        """What the jail must show."""
        return View(
            scratch=self.scratch,
            readable=(*self.interpreter.readable, self.boot),
            control_fd=control_fd,
            runner_uid=self.runner_uid,
            program_uid=self.uid,
        )


class Places:
    """Makes the places of one daemon under its temporary folder, and removes what lies outside of it."""

    def __init__(self, settings: Settings, jail: Jail):
        self._settings, self._users = settings, UserClaims()
        self._packages = numpy_packages() if settings.preload_numpy else ()
        root = os.geteuid() == 0
        self._drops_user, self._maps_users = root and jail.drops_user, root and jail.maps_users
        self._boot = copy_inside(settings.scratch)
        others = self._drops_user or self._maps_users
        self._interpreter = interpreter(settings.scratch if others else None, self._packages)
        self._groups: list[Group] = []
        sweep_groups()

    def make(self, index: int) -> Place:
        """A new place; raises ExecutorError when the machine has no spare user left."""
        scratch = os.path.join(self._settings.scratch, f"worker-{index}")
        os.mkdir(scratch, 0o711)
        os.chmod(scratch, 0o711)  # whatever the umask says
        os.mkdir(os.path.join(scratch, "disk"), 0o711)
        os.chmod(os.path.join(scratch, "disk"), 0o711)
        runner_uid = self._users.claim() if self._maps_users else os.geteuid()
        if self._maps_users:
            for folder in (scratch, os.path.join(scratch, "disk")):
                os.chown(folder, runner_uid, runner_uid)
        return Place(
            scratch=scratch,
            runner_uid=runner_uid,
            uid=self._users.claim() if self._drops_user else None,
            interpreter=self._interpreter,
            boot=self._boot,
            packages=self._packages,
            group=self._group(index),
        )

    def close(self) -> None:
        """Removes the control groups."""
        for group in self._groups:
            group.remove()

    def _group(self, index: int) -> Group | None:
        group = Group.make(index) if self._settings.cgroups else None
        self._groups += [group] if group is not None else []
        return group
