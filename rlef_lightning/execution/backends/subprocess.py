"""The backend without a jail: resource limits, a user of its own, nothing inherited. Works on any Linux.

Programs share the machine's files and network with the trainer. See docs/executors.md for what that
means; use a jailed backend for models that might be up to something.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from rlef_lightning.errors import ConfigError
from rlef_lightning.execution.client import DaemonExecutor
from rlef_lightning.execution.settings import Settings


class NoJail:
    """Launches the runner as it is."""

    def __init__(self, drop_user: bool):
        self.drops_user = drop_user

    def command(self, runner: Sequence[str], *, scratch: str, control_fd: int) -> list[str]:
        """The runner's own command."""
        return list(runner)


class SubprocessExecutor(DaemonExecutor):
    """Runs programs as plain processes under resource limits.

    Example: `class_path: rlef_lightning.execution.SubprocessExecutor`, `init_args: {workers: 2}`.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        report_chars: int = 2048,
        retries: int = 2,
        recycle_after: int = 1000,
        start_timeout_s: float = 30.0,
        grace_s: float = 5.0,
        drop_user: bool = True,
        preload_numpy: bool = False,
        silence_s: float = 60.0,
        share_as: str | None = None,
    ):
        """Starts nothing.

        Args:
            workers: Programs that run at the same time; about one per core that the trainer leaves free.
                Where ranks share a daemon, this is the number of the whole node.
            report_chars: Characters of stdout (head) and stderr (tail) that a report keeps.
            retries: Repetitions after a failure of the sandbox, before ExecutorError.
            recycle_after: Runs after which a worker's process is replaced.
            start_timeout_s: Seconds for the daemon and its runners to come up.
            grace_s: Seconds beyond a run's wall limit after which its worker counts as hung.
            drop_user: As root, run programs as a spare user each worker has for itself. Elsewhere
                programs run as the trainer's user.
            preload_numpy: Let programs import numpy, loaded beforehand.
            silence_s: Seconds for which the daemon may give no sign of life before it counts as hung and is
                replaced.
            share_as: Processes of this user and node with the same name here, and the same settings, share
                one daemon. None: the ranks of one job do, as far as the environment tells (torchrun,
                Lightning, SLURM). Empty: a daemon of its own.
        """
        if min(workers, report_chars, recycle_after) < 1 or retries < 0:
            raise ConfigError(
                "the executor needs workers, report_chars and recycle_after of at least 1, and retries of at"
                f" least 0; found {workers=}, {report_chars=}, {recycle_after=}, {retries=}"
            )
        super().__init__(retries, start_timeout_s, silence_s, share_as)
        self.workers, self.report_chars, self.recycle_after = workers, report_chars, recycle_after
        self.grace_s, self.drop_user, self.preload_numpy = grace_s, drop_user, preload_numpy

    def _settings(self, scratch: str) -> Settings:
        return Settings(
            workers=self.workers, report_chars=self.report_chars, retries=self.retries,
            recycle_after=self.recycle_after, start_timeout_s=self.start_timeout_s, grace_s=self.grace_s,
            preload_numpy=self.preload_numpy, owner_pid=os.getpid(), scratch=scratch,
            jail=f"{NoJail.__module__}.{NoJail.__qualname__}", jail_options={"drop_user": self.drop_user},
        )  # fmt: skip
