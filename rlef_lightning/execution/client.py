"""judge() of the trainer -> one message to the daemon -> one Report back. Decides nothing itself.

The daemon is started on first use and again when it dies. A client belongs to the event loop that it
was started on, and survives any number of `run_until_complete` calls on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlef_lightning.errors import ConfigError, ExecutorError
from rlef_lightning.execution.executor import STDIO
from rlef_lightning.execution.frames import (
    Message,
    encode,
    interface_to_json,
    limits_to_json,
    read_frame,
    report_from_json,
    rule_to_json,
    tests_to_json,
)
from rlef_lightning.execution.guarantees import Proof, check_names, warn_once
from rlef_lightning.execution.scratch import new_scratch
from rlef_lightning.execution.settings import Jail, Settings
from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase

FAREWELL_S = 10.0
"""Seconds for the daemon to end its runners and wipe its folders before it is killed."""
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class DaemonLostError(Exception):
    """The connection to the daemon has broken; it may be started again."""


class Connection:
    """A live daemon process and the replies that are awaited from it."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, scratch: str):
        self.process, self.scratch, self._sock = process, scratch, sock
        self.runners: tuple[int, ...] = ()
        """Process ids of the runners at the daemon's start."""
        self.proof: Proof | None = None
        """What the daemon's self-test has found; None before it has greeted."""
        self._loop, self._owner = asyncio.get_running_loop(), os.getpid()
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._count = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        # Also runs when the trainer exits without close().
        self._end = weakref.finalize(self, end_daemon, process, sock, scratch, self._owner)

    @property
    def usable(self) -> bool:
        """True while the daemon can be talked to from this process and the running loop."""
        reading = self._reading is not None and not self._reading.done()
        return reading and self._loop is asyncio.get_running_loop() and self._owner == os.getpid()

    async def greet(self, timeout_s: float) -> None:
        """Waits for the daemon's first message; raises ExecutorError when it refuses or stays silent."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        try:
            message, _ = await asyncio.wait_for(read_frame(reader), timeout_s)
        except TimeoutError:
            raise ExecutorError(
                f"the sandbox's daemon was not ready after {timeout_s:g} s; raise start_timeout_s"
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ExecutorError("the sandbox's daemon died while it started; see stderr above") from None
        if "error" in message:
            raise ExecutorError(message["error"])
        self.runners = tuple(message["runners"])
        self.proof = Proof.from_json(message["proof"])
        self._reading = self._loop.create_task(self._read(reader))

    async def ask(self, message: Message) -> Message:
        """One request and its reply; raises DaemonLostError. Cancelling it cancels the runs, too."""
        if self._writer is None or not self.usable:
            raise DaemonLostError("the sandbox's daemon is gone")
        self._count += 1
        number = self._count
        self._waiting[number] = future = self._loop.create_future()
        self._writer.write(encode({**message, "id": number}))
        try:
            return await future
        except asyncio.CancelledError:
            self._writer.write(encode({"cancel": number}))
            raise
        finally:
            del self._waiting[number]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    message, _ = await read_frame(reader)
                    future = self._waiting.get(message["id"])
                    if future is not None and not future.done():
                        future.set_result(message)
        finally:  # whatever ended the reading, nobody may wait for ever
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(DaemonLostError("the sandbox's daemon died"))

    async def close(self) -> None:
        """Ends the daemon without blocking the loop."""
        if self._writer is not None and self._loop is asyncio.get_running_loop():
            self._writer.close()
        await asyncio.to_thread(self._end)

    def close_now(self) -> None:
        """Ends the daemon and waits for it; needs no event loop."""
        self._end()


def end_daemon(process: subprocess.Popen[bytes], sock: socket.socket, scratch: str, owner: int) -> None:
    """Hangs up, and waits until the daemon has ended its runners and wiped its folders."""
    if os.getpid() != owner:
        return  # a forked copy of the trainer: the daemon is not its own
    with contextlib.suppress(OSError):  # the shutdown is seen whoever else holds a copy of the socket
        sock.shutdown(socket.SHUT_RDWR)
    try:
        process.wait(FAREWELL_S)
    except subprocess.TimeoutExpired:
        process.kill()  # the runners see it and end themselves
        process.wait()
    shutil.rmtree(scratch, ignore_errors=True)  # a daemon that was killed could not


def spawn(settings: Settings) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts a daemon in a session of its own.

    Without a preexec function: a trainer of many gigabytes would be copied for it (measured: 170 ms).
    """
    ours, theirs = socket.socketpair()
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": _PACKAGE_ROOT}
    command = [sys.executable, "-s", "-P", "-m", "rlef_lightning.execution.daemon"]
    with theirs:
        process = subprocess.Popen(
            [*command, str(theirs.fileno()), settings.to_json()], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip
    return process, ours


class DaemonExecutor(ABC):
    """An Executor over one daemon; each backend is a subclass that names its jail."""

    def __init__(
        self,
        *,
        workers: int = 2,
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
    ):
        """Starts nothing.

        Args:
            workers: Programs that run at the same time; about one per core that the trainer leaves free.
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
        """
        if min(workers, report_chars, recycle_after, scratch_bytes, scratch_files) < 1 or retries < 0:
            raise ConfigError(
                "the executor needs workers, report_chars, recycle_after, scratch_bytes and scratch_files"
                f" of at least 1, and retries of at least 0; found {workers=}, {report_chars=},"
                f" {recycle_after=}, {scratch_bytes=}, {scratch_files=}, {retries=}"
            )
        self.workers, self.report_chars, self.recycle_after = workers, report_chars, recycle_after
        self.retries, self.start_timeout_s, self.grace_s = retries, start_timeout_s, grace_s
        self.scratch_bytes, self.scratch_files, self.cgroups = scratch_bytes, scratch_files, cgroups
        self.preload_numpy, self.required = preload_numpy, required
        check_names(required or ())
        self._connection: Connection | None = None
        self._starting: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    @abstractmethod
    def _jail(self) -> tuple[type[Jail], dict[str, Any]]:
        """The class of the backend's `Jail`, and its arguments."""

    def _settings(self, scratch: str) -> Settings:
        jail, options = self._jail()
        return Settings(
            workers=self.workers, report_chars=self.report_chars, retries=self.retries,
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
        await self._connected()

    @property
    def proof(self) -> Proof | None:
        """What the self-test at the last start has found; None before the first one."""
        return None if self._connection is None else self._connection.proof

    async def _connected(self) -> Connection:
        """The live connection; only one coroutine at a time starts a daemon."""
        async with self._lock():
            if self._connection is None or not self._connection.usable:
                if self._connection is not None:
                    await self._connection.close()
                self._connection = await self._connect()
            return self._connection

    def _lock(self) -> asyncio.Lock:
        """A lock of the running loop; a trainer may have used another loop before."""
        loop = asyncio.get_running_loop()
        if self._starting is None or self._starting[0] is not loop:
            self._starting = loop, asyncio.Lock()
        return self._starting[1]

    async def _connect(self) -> Connection:
        if sys.platform != "linux":
            raise ExecutorError(f"programs can be run on Linux only; this is {sys.platform}")
        scratch = new_scratch()
        try:
            process, sock = spawn(self._settings(scratch))
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            raise ExecutorError(f"the sandbox's daemon cannot be started: {error}") from error
        connection = Connection(process, sock, scratch)
        try:
            await connection.greet(self.start_timeout_s)
            assert connection.proof is not None
            warn_once(type(self).__name__, connection.proof.gaps)
        except BaseException:
            await asyncio.shield(connection.close())
            raise
        return connection

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
        for _ in range(self.retries + 1):
            connection = await self._connected()
            with contextlib.suppress(DaemonLostError):
                return await connection.ask(message)
        raise ExecutorError(f"the sandbox's daemon died {self.retries + 1} times during one judgement")

    async def close(self) -> None:
        """Ends the daemon and everything below it."""
        connection, self._connection, self._starting = self._connection, None, None
        if connection is not None:
            await connection.close()

    def close_now(self) -> None:
        """As `close`, outside any event loop; blocks until the processes are gone."""
        connection, self._connection, self._starting = self._connection, None, None
        if connection is not None:
            connection.close_now()
