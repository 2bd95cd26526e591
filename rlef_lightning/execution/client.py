"""judge() of the trainer -> one message to the daemon -> one Report back. Decides nothing itself.

The daemon is started on first use and again when it dies; the ranks of a job on one node share it. A
client belongs to the event loop that it was started on, and survives any number of `run_until_complete`
calls on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from rlef_lightning.errors import ConfigError, ExecutorError
from rlef_lightning.execution.connection import Connection, DaemonLostError, Reached
from rlef_lightning.execution.executor import STDIO
from rlef_lightning.execution.frames import (
    Message,
    interface_to_json,
    limits_to_json,
    report_from_json,
    rule_to_json,
    tests_to_json,
)
from rlef_lightning.execution.guarantees import Proof, check_names, warn_once
from rlef_lightning.execution.job import job_name, meeting_folder
from rlef_lightning.execution.launch import reach_shared, start_private
from rlef_lightning.execution.settings import Jail, Settings
from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase


class DaemonExecutor(ABC):
    """An Executor over one daemon; each backend is a subclass that names its jail."""

    def __init__(
        self,
        *,
        workers: int = 2,
        workers_per_solution: int | None = None,
        report_chars: int = 2048,
        retries: int = 2,
        recycle_after: int = 1000,
        start_timeout_s: float = 30.0,
        grace_s: float = 5.0,
        scratch_bytes: int = 256 << 20,
        scratch_files: int = 4096,
        cgroups: bool = True,
        preload_numpy: bool = False,
        required: Sequence[str] | None = None,
        silence_s: float = 60.0,
        share_as: str | None = None,
    ):
        """Starts nothing.

        Args:
            workers: Programs that run at the same time; about one per core that the trainer leaves free.
                Where ranks share a daemon, this is the number of the whole node.
            workers_per_solution: How many of them one solution may have at a time. A worker that becomes free
                goes to the solution that has the fewest, but one alone takes all, and the next then waits
                for the end of a run: keep some from it where single runs are long. null: no such bound.
            report_chars: Characters of stdout (head) and stderr (tail) that a report keeps.
            retries: Repetitions after a failure of the sandbox, before ExecutorError.
            recycle_after: Runs after which a worker's process is replaced.
            start_timeout_s: Seconds for the daemon and its runners to come up.
            grace_s: Seconds beyond a run's wall limit after which its worker counts as hung.
            scratch_bytes: All files of a program together, where a file system of its own can be mounted.
            scratch_files: How many files and folders, likewise.
            cgroups: Bound each worker by a control group, where the machine allows one.
            preload_numpy: Let programs import numpy, loaded beforehand.
            required: Names of guarantees (see `rlef doctor`) without which no program is run; null:
                those that the backend promises.
            silence_s: Seconds for which the daemon may give no sign of life before it counts as hung
                and is replaced.
            share_as: Processes of this user and node with the same name here, and otherwise the same
                settings, share one daemon. null: the ranks of one job do, as far as the environment tells
                (torchrun, Lightning, SLURM). Empty: a daemon of its own.
        """
        self.workers_per_solution = workers_per_solution
        self.workers, self.report_chars, self.recycle_after = workers, report_chars, recycle_after
        self.retries, self.start_timeout_s, self.grace_s = retries, start_timeout_s, grace_s
        self.scratch_bytes, self.scratch_files, self.cgroups = scratch_bytes, scratch_files, cgroups
        self.preload_numpy, self.required = preload_numpy, required
        self.silence_s, self.share_as = silence_s, share_as
        self._check_settings()
        self._connection: Connection | None = None
        self._closings = 0
        """How often it has been closed: what was pending then must not start it again."""
        self._starting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def _check_settings(self) -> None:
        counts = ("workers", "report_chars", "recycle_after", "scratch_bytes", "scratch_files")
        if min(getattr(self, name) for name in counts) < 1 or self.retries < 0:
            found = ", ".join(f"{name}={getattr(self, name)}" for name in (*counts, "retries"))
            raise ConfigError(
                "the executor needs workers, report_chars, recycle_after, scratch_bytes and scratch_files"
                f" of at least 1, and retries of at least 0; found {found}"
            )
        if self.workers_per_solution is not None and self.workers_per_solution < 1:
            raise ConfigError(
                f"the executor's workers_per_solution is {self.workers_per_solution}; needed: at least 1, or"
                " null"
            )
        if self.silence_s <= 0:
            raise ConfigError(f"the executor's silence_s is {self.silence_s:g}; needed: more than 0")
        check_names(self.required or ())

    @abstractmethod
    def _jail(self) -> tuple[type[Jail], dict[str, Any]]:
        """The class of the backend's `Jail`, and its arguments."""

    @property
    def episode_settings(self) -> dict[str, object]:
        """What decides verdicts and feedback besides the class and a problem's own limits."""
        return {
            "report_chars": self.report_chars, "preload_numpy": self.preload_numpy,
            "scratch_bytes": self.scratch_bytes, "scratch_files": self.scratch_files,
            "python": ".".join(map(str, sys.version_info[:2])),
        }  # fmt: skip

    @property
    def promises(self) -> tuple[str, ...]:
        """Names of the guarantees that the backend gives; raises ExecutorError when it is not installed."""
        return self._jail()[0].promises

    def _settings(self, scratch: str) -> Settings:
        jail, options = self._jail()
        return Settings(
            workers=self.workers, workers_per_solution=self.workers_per_solution,
            report_chars=self.report_chars, retries=self.retries,
            recycle_after=self.recycle_after, start_timeout_s=self.start_timeout_s, grace_s=self.grace_s,
            scratch_bytes=self.scratch_bytes, scratch_files=self.scratch_files, cgroups=self.cgroups,
            preload_numpy=self.preload_numpy, owner_pid=os.getpid(), scratch=scratch,
            required=tuple(jail.promises if self.required is None else self.required),
            jail=f"{jail.__module__}.{jail.__qualname__}", jail_options=options,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, object]:
        """Pickles the configuration only; the copy starts a daemon of its own."""
        return {**self.__dict__, "_connection": None, "_starting": None}

    async def start(self) -> None:
        """Starts the daemon unless it lives; raises ExecutorError."""
        await self._connected(self._closings)

    @property
    def proof(self) -> Proof | None:
        """What the self-test at the last start has found; None before the first one."""
        return None if self._connection is None else self._connection.proof

    async def _connected(self, closings: int) -> Connection:
        """The live connection; only one coroutine at a time starts a daemon.

        Raises ExecutorError when the executor has been closed more than `closings` times: whoever asked for a
        connection before then must not start another daemon.
        """
        async with self._lock():
            self._check_open(closings)
            if self._connection is None or not self._connection.usable:
                if self._connection is not None:
                    await self._connection.close()
                connection = await self._connect()
                if self._closings != closings:
                    await connection.close()
                self._check_open(closings)
                self._connection = connection
            return self._connection

    def _lock(self) -> asyncio.Lock:
        """A lock of the running loop; a trainer may have used another loop before."""
        loop = asyncio.get_running_loop()
        if self._starting is None or self._starting[0] is not loop:
            self._starting = loop, asyncio.Lock()
        return self._starting[1]

    async def _connect(self) -> Connection:
        """A connection to a daemon that has greeted; one that dies meanwhile is replaced."""
        if sys.platform != "linux":
            raise ExecutorError(f"programs can be run on Linux only; this is {sys.platform}")
        for _ in range(self.retries + 1):
            connection = Connection(await self._reach(), self.silence_s)
            try:
                await connection.greet(self.start_timeout_s)
                warn_once(type(self).__name__, connection.proof.gaps)
                return connection
            except DaemonLostError:
                await connection.close()
            except BaseException:
                await asyncio.shield(connection.close())
                raise
        raise ExecutorError(
            f"the sandbox's daemon died while it started, {self.retries + 1} times; see stderr above"
        )

    async def _reach(self) -> Reached:
        """The daemon of the node when this process is one of several ranks there, else one of its own."""
        name = job_name(os.environ) if self.share_as is None else self.share_as
        try:
            if not name:
                return start_private(self._settings)
            folder = meeting_folder(name, self._settings(scratch=""))
            return await reach_shared(folder, self._settings, self.start_timeout_s)
        except OSError as error:
            raise ExecutorError(f"the sandbox's daemon cannot be started: {error}") from error

    async def judge(
        self,
        code: str,
        tests: Sequence[TestCase],
        *,
        limits: Limits,
        rule: OutputRule,
        stop_at_first_failure: bool,
        interface: Interface = STDIO,
    ) -> Report:
        """See `Executor.judge`."""
        if not tests:
            raise ExecutorError("an empty list of tests cannot be judged: nothing would have been tested")
        message: Message = {
            "code": code, "tests": tests_to_json(tuple(tests)), "limits": limits_to_json(limits),
            "rule": rule_to_json(rule), "stop_at_first_failure": stop_at_first_failure,
            "interface": interface_to_json(interface),
        }  # fmt: skip
        reply = await self._ask(message)
        if "error" in reply:
            raise ExecutorError(reply["error"])
        return report_from_json(reply["results"])

    async def _ask(self, message: Message) -> Message:
        """The daemon's reply; a daemon that dies meanwhile is started again, `retries` times."""
        closings = self._closings
        for _ in range(self.retries + 1):
            connection = await self._connected(closings)
            with contextlib.suppress(DaemonLostError):
                return await connection.ask(message)
            self._check_open(closings)
        raise ExecutorError(
            f"the sandbox's daemon died {self.retries + 1} times during one judgement, or did not answer"
            f" for {self.silence_s:g} s and was replaced"
        )

    def _check_open(self, closings: int) -> None:
        if self._closings != closings:
            raise ExecutorError(
                "the executor was closed while a judgement was pending; await judge() or cancel it before"
                " close()"
            )

    async def close(self) -> None:
        """Ends what this client has running, and the daemon unless other ranks use it."""
        connection = self._let_go()
        if connection is not None:
            await connection.close()

    def close_now(self) -> None:
        """As `close`, outside any event loop; blocks until the processes are gone."""
        connection = self._let_go()
        if connection is not None:
            connection.close_now()

    def _let_go(self) -> Connection | None:
        """The connection, which nobody is to use any more."""
        connection, self._connection, self._starting = self._connection, None, None
        self._closings += 1
        return connection
