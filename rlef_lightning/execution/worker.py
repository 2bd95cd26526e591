"""One worker of the daemon: keeps one runner alive, hands it one run at a time, replaces it when it fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from rlef_lightning.execution.link import RunnerLink, RunnerLostError
from rlef_lightning.execution.place import Place
from rlef_lightning.execution.runs import NO_EXTRAS, Extras, RunFacts
from rlef_lightning.execution.scratch import lacks_room
from rlef_lightning.execution.settings import Jail, Settings
from rlef_lightning.types import Limits

CLEANING_S = 10.0
"""Seconds for a runner to empty its scratch folder; then it is replaced, and what it has not yet removed
stays in the worker's folder, out of every program's way, until the daemon ends."""
_RUNNER_BYTES, _RUNNER_PROCESSES = 64 << 20, 8
"""Room in a worker's control group for the runner and the jail's helper."""


def room_beside(settings: Settings) -> int:
    """Bytes in a worker's control group beyond a program's memory: for the runner, and files in memory."""
    return _RUNNER_BYTES + settings.scratch_bytes


def why_not_set_up(facts: RunFacts, limits: Limits) -> str:
    """Words for a run whose program never began."""
    if facts.stopped in ("cpu", "wall"):
        allowed_s = limits.cpu_s if facts.stopped == "cpu" else limits.wall_s
        return f"a program had not begun when its {facts.stopped} limit of {allowed_s:g} s was over"
    cried = facts.stderr.decode(errors="replace")
    return f"a program could not be set up: status {facts.status}, stopped by {facts.stopped}; {cried}"


class Worker:
    """Runs one program at a time."""

    def __init__(self, place: Place, jail: Jail, settings: Settings, runners: set[int]):
        self._place, self._jail, self._settings = place, jail, settings
        self._runners = runners
        """Process ids of all live runners of the daemon."""
        self._link: RunnerLink | None = None
        self._runs = 0
        self._proven: tuple[str, ...] | None = None
        """Walls that the first runner could not put up; the self-test was made behind those it could."""

    @property
    def uid(self) -> int | None:
        """The programs' own user; None: the daemon's."""
        return self._place.uid

    @property
    def process(self) -> int:
        """Process id of the live runner, or of the helper program above it; 0: there is none."""
        return 0 if self._link is None else self._link.pid

    @property
    def walls_missing(self) -> tuple[str, ...]:
        """Walls that the live runner could not put up, and why."""
        return () if self._link is None else self._link.missing

    async def start(self) -> None:
        """Brings the runner to where it takes a run; raises RunnerLostError."""
        timeout_s = CLEANING_S
        if self._link is None or not self._link.alive or self._runs >= self._settings.recycle_after:
            await self.stop()
            self._link, self._runs, timeout_s = self._launch(), 0, self._settings.start_timeout_s
        await self._link.until_clean(timeout_s)
        if self._proven is None:
            self._proven = self._link.missing
        if fewer := set(self._link.missing) - set(self._proven):
            await self.stop()
            raise RunnerLostError(f"walls that stood at first are missing: {', '.join(sorted(fewer))}")

    async def run(self, code: bytes, stdin: bytes, limits: Limits, extras: Extras = NO_EXTRAS) -> RunFacts:
        """Runs a program once; raises RunnerLostError when the sandbox, not the program, failed."""
        try:
            await self.start()
            assert self._link is not None
            self._check_disk(limits)
            self._runs += 1
            kills = self._bound(limits)
            timeout_s = limits.wall_s + self._settings.grace_s
            facts = await self._link.run(code, stdin, limits, timeout_s, extras)
        except BaseException:  # also when cancelled: the runner is in the middle of something
            await asyncio.shield(self.stop())
            raise
        self._check_disk(limits)  # full since then: that may be why it fails
        if not facts.stage:
            raise RunnerLostError(why_not_set_up(facts, limits))
        if self._place.group is not None and facts.stopped is None and self._place.group.kills() > kills:
            return replace(facts, stopped="memory")
        return facts

    async def try_out(self, code: bytes, stdin: bytes, limits: Limits) -> RunFacts:
        """As `run`, for the self-test: it does not count towards the runner's replacement."""
        facts = await self.run(code, stdin, limits)
        self._runs -= 1
        return facts

    def _bound(self, limits: Limits) -> int:
        """Sets the worker's control group to the limits; how often the kernel has killed in it so far."""
        group = self._place.group
        if group is None:
            return 0
        try:
            group.limit_memory(limits.memory_bytes + room_beside(self._settings))
            group.limit_processes(limits.processes + _RUNNER_PROCESSES)
        except OSError as error:
            raise RunnerLostError(f"a control group cannot be set: {error}") from None
        return group.kills()

    async def stop(self) -> None:
        """Ends the runner with all that its program started; returns when they are gone."""
        link, self._link = self._link, None
        if link is not None:
            await link.end()

    def _launch(self) -> RunnerLink:
        try:
            return RunnerLink(self._jail, self._place, self._settings, self._runners)
        except OSError as error:  # no descriptors, no processes, no room, no interpreter
            raise RunnerLostError(f"a runner cannot be launched: {error}") from error

    def _check_disk(self, limits: Limits) -> None:
        """Raises RunnerLostError when a program could fail for want of room that the limits promise it."""
        own_disk = self._link is not None and self._link.own_disk
        if not own_disk and lacks_room(self._place.scratch, limits.file_bytes):
            raise RunnerLostError(
                f"the disk of {self._place.scratch} has less than file_bytes ({limits.file_bytes}) free"
            )
