"""The backend that needs no helper program: what Python and the kernel give an ordinary user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rlef_lightning.execution.client import DaemonExecutor
from rlef_lightning.execution.settings import Inside, Jail, View


class NoJail:
    """Launches the runner as it is; the runner makes name spaces for itself where it may."""

    maps_users = False
    promises: ClassVar[tuple[str, ...]] = (
        "time",
        "output",
        "memory",
        "file_size",
        "environment",
        "stdin",
        "survivors",
        "descriptors",
        "privileges",
    )

    def __init__(self, drop_user: bool, namespaces: bool):
        self.drops_user, self._namespaces = drop_user, namespaces

    def command(self, runner: Sequence[str], view: View) -> list[str]:
        """The runner's own command."""
        return list(runner)

    def inside(self, view: View) -> Inside:
        """As root each program has a user of its own; otherwise its user is the trainer's."""
        alone = view.program_uid is not None
        return Inside(namespaces=self._namespaces, mounts=self._namespaces, neighbours=0 if alone else None)


class SubprocessExecutor(DaemonExecutor):
    """Runs programs without a helper program: resource limits, Landlock, seccomp, name spaces where allowed.

    Example: `class_path: rlef_lightning.execution.SubprocessExecutor`, `init_args: {workers: 2}`.
    """

    def __init__(self, *, drop_user: bool = True, namespaces: bool = True, **kwargs: Any):
        """Starts nothing.

        Args:
            drop_user: As root, run programs as a spare user each worker has for itself. Elsewhere
                programs run as the trainer's user.
            namespaces: Let each runner make process, network and mount name spaces of its own, where
                the machine allows it.
            kwargs: See `DaemonExecutor`.
        """
        super().__init__(**kwargs)
        self.drop_user, self.namespaces = drop_user, namespaces

    def _jail(self) -> tuple[type[Jail], dict[str, Any]]:
        return NoJail, {"drop_user": self.drop_user, "namespaces": self.namespaces}
