"""judge requests over a socket -> runs spread over the workers -> Reports back.

A small process of its own (no CUDA, no torch): the trainer's event loop is often blocked by the
engine, so scheduling and comparing happen here. It ends, with everything below it, when its last
client or its trainer does. Run as `python -m rlef_lightning.execution.daemon <fd> '<settings>'`.

    <- {"id", "code", "tests", "limits", "rule", "interface", "stop_at_first_failure"}    <- {"cancel": id}
    -> {"ready": true, ...} once, then {"id", "results"} or {"id", "error"}
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from functools import partial

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.fair import FairLender
from rlef_lightning.execution.frames import Message, encode, read_frame, report_to_json, tests_from_json
from rlef_lightning.execution.inside.folders import remove_tree
from rlef_lightning.execution.inside.kernel import PR_SET_CHILD_SUBREAPER, lower, prctl
from rlef_lightning.execution.judge import Solution, judge_tests
from rlef_lightning.execution.library import numpy_packages, python_home
from rlef_lightning.execution.link import RunnerLostError
from rlef_lightning.execution.runs import Run, RunFacts
from rlef_lightning.execution.scratch import hold_scratch, sweep_abandoned
from rlef_lightning.execution.selftest import prove_walls
from rlef_lightning.execution.settings import Settings
from rlef_lightning.execution.users import UserClaims
from rlef_lightning.execution.worker import Place, Worker
from rlef_lightning.types import Interface, Limits, OutputRule, Report

STACK_BYTES = 256 << 20
"""Room for deep recursion in C; runners inherit it, and programs from them."""


class Pool:
    """All workers of the daemon and their scratch folders."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.runners: set[int] = set()
        self.scratch = settings.scratch
        self._lock = hold_scratch(self.scratch)
        sweep_abandoned(os.path.dirname(self.scratch))
        self._users = UserClaims()
        jail = settings.make_jail()
        own_users = jail.drops_user and os.geteuid() == 0
        home = python_home(self.scratch) if own_users else None
        self._workers = [
            Worker(self._place(index, own_users, home), jail, settings, self.runners)
            for index in range(settings.workers)
        ]
        self._lender = FairLender(self._workers)

    def _place(self, index: int, own_users: bool, home: str | None) -> Place:
        scratch = os.path.join(self.scratch, f"worker-{index}")
        os.mkdir(scratch, 0o711)
        os.chmod(scratch, 0o711)  # whatever the umask says
        return Place(
            scratch=scratch,
            uid=self._users.claim() if own_users else None,
            home=home,
            packages=numpy_packages() if self.settings.preload_numpy else (),
        )

    async def start(self) -> None:
        """Starts every runner and proves its walls; raises ExecutorError."""
        try:
            await asyncio.gather(*(worker.start() for worker in self._workers))
            await asyncio.gather(*(prove_walls(worker) for worker in self._workers))
        except RunnerLostError as error:
            raise ExecutorError(f"a runner of the sandbox does not start: {error}") from None

    async def run(self, key: object, run: Run) -> RunFacts:
        """One run on whichever worker is free, repeated when the sandbox fails; raises ExecutorError."""
        failure = ""
        for _ in range(self.settings.retries + 1):
            async with self._lender.lend_alone() if run.alone else self._lender.lend(key) as worker:
                try:
                    return await worker.run(run.code, run.stdin, run.limits, run.extras)
                except RunnerLostError as error:
                    failure = str(error)
        raise ExecutorError(f"a run failed {self.settings.retries + 1} times in the sandbox; last: {failure}")

    async def close(self) -> None:
        """Ends the runners and wipes the scratch folders."""
        await asyncio.gather(*(worker.stop() for worker in self._workers), return_exceptions=True)
        with contextlib.suppress(OSError):
            remove_tree(self.scratch)


class Client:
    """One connected trainer process and its open requests."""

    def __init__(self, pool: Pool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._pool, self._reader, self._writer = pool, reader, writer
        self._open: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answers until the client has gone; what it still waited for is dropped."""
        try:
            while True:
                message, _ = await read_frame(self._reader)
                self._accept(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for task in self._open.values():
                task.cancel()
            await asyncio.gather(*self._open.values(), return_exceptions=True)
            self._writer.close()

    def _accept(self, message: Message) -> None:
        if "cancel" in message:
            if task := self._open.get(message["cancel"]):
                task.cancel()
            return
        number = message["id"]
        self._open[number] = task = asyncio.create_task(self._answer(number, message))
        task.add_done_callback(lambda _: self._open.pop(number, None))

    async def _answer(self, number: int, message: Message) -> None:
        try:
            report = await judge_message(self._pool, message)
            self._writer.write(encode({"id": number, "results": report_to_json(report)}))
        except Exception as error:
            self._writer.write(encode({"id": number, "error": describe(error)}))
        await self._writer.drain()


async def judge_message(pool: Pool, message: Message) -> Report:
    """A request as it came over the socket, judged."""
    solution = Solution(
        code=message["code"].encode("utf-8", "surrogatepass"),
        limits=Limits(**message["limits"]),
        rule=OutputRule(**message["rule"]),
        interface=Interface(**message["interface"]),
    )
    return await judge_tests(
        partial(pool.run, object()),  # one borrower of workers
        solution,
        tests_from_json(message["tests"]),
        stop_at_first_failure=message["stop_at_first_failure"],
        chars=pool.settings.report_chars,
    )


def describe(error: BaseException) -> str:
    """The first cause as one line: a group of failed tests shows one of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, ExecutorError) else f"{type(error).__name__}: {error}"


async def live(fd: int, settings: Settings) -> None:
    """The daemon's whole life with its first client."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))
    pool = Pool(settings)
    try:
        await pool.start()
        ready = {"ready": True, "runners": sorted(pool.runners)}
        writer.write(encode(ready))
        await Client(pool, reader, writer).serve()
    except ExecutorError as error:
        writer.write(encode({"error": str(error)}))
        await writer.drain()
    finally:
        await pool.close()


async def live_until_owner_ends(fd: int, settings: Settings) -> None:
    """As `live`, cut short by the trainer's end or by SIGTERM, whoever else holds the socket."""
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    life = loop.create_task(live(fd, settings))
    life.add_done_callback(lambda _: end.set())
    try:
        loop.add_reader(os.pidfd_open(settings.owner_pid), end.set)
    except ProcessLookupError:
        end.set()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, end.set)
    await end.wait()
    life.cancel()  # once: the cleaning up must not be cut short in its turn
    await asyncio.wait([life])
    if not life.cancelled():
        life.result()


def main() -> None:
    """Entry point: the number of the inherited socket, and the settings as JSON."""
    fd, settings = int(sys.argv[1]), Settings.from_json(sys.argv[2])
    os.set_inheritable(fd, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    lower(resource.RLIMIT_STACK, STACK_BYTES, sys.maxsize)
    asyncio.run(live_until_owner_ends(fd, settings))


if __name__ == "__main__":
    main()
