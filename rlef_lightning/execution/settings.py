"""What the trainer tells the daemon at its start, and the seam where a backend's jail slots in."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a jail shows of the machine to one runner and its programs; nothing else is needed."""

    scratch: str
    """The one folder that is written to, by the same name inside."""
    readable: tuple[str, ...]
    """Files and folders to be seen, read-only, by the same names inside."""
    control_fd: int
    """A descriptor that is inherited and must stay open in the runner, under this number."""
    runner_uid: int
    """The runner's user outside; as root, a jail with users of its own may map another one to it."""
    program_uid: int | None
    """The programs' user, by the same number inside and outside; None: the runner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What a runner is told about the jail that it finds itself in."""

    namespaces: bool = False
    """True: there is no jail around it, and it makes name spaces of its own where it may."""
    mounts: bool = True
    """True: it may mount its scratch file system."""
    neighbours: int | None = 0
    """Other processes that the kernel counts together with a program's under its limit of processes;
    None: unknown, because the user is shared with the rest of the machine."""


class Jail(Protocol):
    """How a runner is launched. The one thing that differs between backends.

    Built in the daemon from `Settings.jail` and `Settings.jail_options`.
    """

    drops_user: bool
    """True when the runner, started as root, gives each program a user of its own."""
    maps_users: bool
    """True when the jail, started as root, runs the runner as an ordinary user outside."""
    promises: ClassVar[tuple[str, ...]]
    """Names of the guarantees that hold wherever the backend starts; see guarantees.py."""

    def command(self, runner: Sequence[str], view: View) -> list[str]:
        """The command that runs `runner` (python and its arguments) inside the jail.

        Raises ExecutorError when the jail cannot be built on this machine.
        """
        ...

    def inside(self, view: View) -> Inside:
        """How things are behind the jail's walls."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Example: Settings(workers=2, retries=2, owner_pid=4711, jail="package.module.Class", ...)"""

    workers: int
    """Programs that run at the same time."""
    workers_per_solution: int | None
    """How many of them may be one solution's; None: all that nobody else waits for."""
    report_chars: int
    """Characters of stdout (its head) and of stderr (its tail) in a report."""
    retries: int
    """Repetitions of a run after a failure of the sandbox, before the judgement fails."""
    recycle_after: int
    """Runs after which a runner is replaced by a fresh one."""
    start_timeout_s: float
    """Seconds for a runner to come up."""
    grace_s: float
    """Seconds beyond the wall limit after which a silent runner is replaced."""
    scratch_bytes: int
    """All files of a program together."""
    scratch_files: int
    """How many files and folders a program may have."""
    cgroups: bool
    """True: bound each worker by a control group, where the machine allows one."""
    required: tuple[str, ...]
    """Names of the guarantees without which no program is run."""
    preload_numpy: bool
    """True: programs may import numpy, which the runner has loaded."""
    owner_pid: int
    """The trainer; the daemon ends when it does."""
    scratch: str
    """A new folder for the daemon to work in and to remove."""
    jail: str
    """Class path of a `Jail`."""
    jail_options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line for the daemon's command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Settings:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return Settings(**{**fields, "required": tuple(fields["required"])})

    def make_jail(self) -> Jail:
        """An instance of the class that `jail` names."""
        module, _, name = self.jail.rpartition(".")
        jail: Jail = getattr(importlib.import_module(module), name)(**self.jail_options)
        return jail
