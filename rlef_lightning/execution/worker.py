"""One worker of the daemon: keeps one runner alive, hands it one run at a time, replaces it when it fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass

from rlef_lightning.execution.judge import RunFacts
from rlef_lightning.execution.link import RunnerLink, RunnerLostError
from rlef_lightning.execution.scratch import lacks_room
from rlef_lightning.execution.settings import Jail, Settings
from rlef_lightning.types import Limits

CLEANING_S = 10.0
"""Seconds for a runner to empty its scratch folder; then it is replaced, and what it has not yet removed
stays in the worker's folder, out of every program's way, until the daemon ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and as whom the programs of one worker run."""

    scratch: str
    uid: int | None
    """The programs' own user; None: the daemon's."""
    home: str | None
    """PYTHONHOME, when programs cannot read the interpreter's own library."""
    packages: tuple[str, ...]
    """Folders to import numpy from; empty: programs have the standard library only."""

    @property
    def environment(self) -> Mapping[str, str]:
        """All that a runner, and with it a program, finds in its environment."""
        folder = os.path.join(self.scratch, "run")
        found = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder,
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        return {**found, "PYTHONHOME": self.home} if self.home else found


class Worker:
    """Runs one program at a time."""

    def __init__(self, place: Place, jail: Jail, settings: Settings, runners: set[int]):
        self._place, self._jail, self._settings = place, jail, settings
        self._runners = runners
        """Process ids of all live runners of the daemon."""
        self._link: RunnerLink | None = None
        self._runs = 0

    @property
    def uid(self) -> int | None:
        """The programs' own user; None: the daemon's."""
        return self._place.uid

    async def start(self) -> None:
        """Brings the runner to where it takes a run; raises RunnerLostError."""
        timeout_s = CLEANING_S
        if self._link is None or not self._link.alive or self._runs >= self._settings.recycle_after:
            await self.stop()
            self._link, self._runs, timeout_s = self._launch(), 0, self._settings.start_timeout_s
        await self._link.until_clean(timeout_s)

    async def run(self, code: bytes, stdin: bytes, limits: Limits) -> RunFacts:
        """Runs a program once; raises RunnerLostError when the sandbox, not the program, failed."""
        self._check_disk(limits)
        try:
            await self.start()
            assert self._link is not None
            self._runs += 1
            facts = await self._link.run(code, stdin, limits, limits.wall_s + self._settings.grace_s)
        except BaseException:  # also when cancelled: the runner is in the middle of something
            await asyncio.shield(self.stop())
            raise
        self._check_disk(limits)  # full since then: that may be why it fails
        if not facts.stage:
            raise RunnerLostError(f"a program could not be set up: {facts.stderr.decode(errors='replace')}")
        return facts

    async def stop(self) -> None:
        """Ends the runner with all that its program started; returns when they are gone."""
        link, self._link = self._link, None
        if link is not None:
            await link.end()

    def _launch(self) -> RunnerLink:
        place = self._place
        options = {"scratch": place.scratch, "uid": place.uid, "packages": place.packages}
        try:
            return RunnerLink(self._jail, options, place.environment, self._runners)
        except OSError as error:  # no descriptors, no processes, no room, no interpreter
            raise RunnerLostError(f"a runner cannot be launched: {error}") from error

    def _check_disk(self, limits: Limits) -> None:
        """Raises RunnerLostError when a program could fail for want of room that the limits promise it."""
        if lacks_room(self._place.scratch, limits.file_bytes):
            raise RunnerLostError(
                f"the disk of {self._place.scratch} has less than file_bytes ({limits.file_bytes}) free"
            )
