"""What the trainer tells the daemon at its start, and the seam where a backend's jail slots in."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


class Jail(Protocol):
    """How a runner is launched. The one thing that differs between backends.

    Built in the daemon from `Settings.jail` and `Settings.jail_options`.
    """

    drops_user: bool
    """True when the runner, started as root, gives each program a user of its own."""

    def command(self, runner: Sequence[str], *, scratch: str, control_fd: int) -> list[str]:
        """The command that runs `runner` (python and its arguments) inside the jail.

        `scratch` is the one folder that the runner writes to; `control_fd` is inherited and must
        stay open in the runner. Both keep their names and numbers inside.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Example: Settings(workers=2, retries=2, owner_pid=4711, jail="package.module.Class", ...)"""

    workers: int
    """Programs that run at the same time."""
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
        return Settings(**json.loads(text))

    def make_jail(self) -> Jail:
        """An instance of the class that `jail` names."""
        module, _, name = self.jail.rpartition(".")
        jail: Jail = getattr(importlib.import_module(module), name)(**self.jail_options)
        return jail
