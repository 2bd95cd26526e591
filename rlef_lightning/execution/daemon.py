"""judge requests over a socket -> runs spread over the workers -> Reports back.

A small process of its own (no CUDA, no torch): the trainer's event loop is often blocked by the
engine, so scheduling and comparing happen here. It ends, with everything below it, when its last
client or its trainer does. Run as `python -m rlef_lightning.execution.daemon <fd> '<settings>' '<folder>'`,
where the descriptor is connected to the only client, or listens in the folder in which many meet.

    <- {"id", "code", "tests", "limits", "rule", "interface", "stop_at_first_failure"}    <- {"cancel": id}
    -> {"ready": true, ...} once, then {"id", "results"} or {"id", "error"}
    <- {"ping": true}                                                        -> {"pong": true}
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
from rlef_lightning.execution.door import OpenDoor
from rlef_lightning.execution.fair import FairLender
from rlef_lightning.execution.frames import (
    Message,
    encode,
    open_streams,
    read_frame,
    report_to_json,
    tests_from_json,
)
from rlef_lightning.execution.guarantees import Proof
from rlef_lightning.execution.inside.folders import remove_tree
from rlef_lightning.execution.inside.kernel import PR_SET_CHILD_SUBREAPER, lower, prctl
from rlef_lightning.execution.judge import Solution, at_most, judge_tests
from rlef_lightning.execution.link import RunnerLostError
from rlef_lightning.execution.meeting import sweep
from rlef_lightning.execution.place import Places
from rlef_lightning.execution.runs import Run, RunFacts
from rlef_lightning.execution.scratch import hold_scratch, sweep_abandoned
from rlef_lightning.execution.selftest import prove
from rlef_lightning.execution.settings import Settings
from rlef_lightning.execution.worker import Worker
from rlef_lightning.types import Interface, Limits, OutputRule, Report

RETRY_PAUSE_S = 0.1
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
        jail = settings.make_jail()
        self._places = Places(settings, jail)
        self._workers = [
            Worker(self._places.make(index), jail, settings, self.runners)
            for index in range(settings.workers)
        ]
        self._lender = FairLender(self._workers)
        self.proof = Proof(findings=(), walls_missing=(), seconds=0.0)
        """What the walls hold; empty before the start."""

    @property
    def greeting(self) -> Message:
        """What each client is told first."""
        return {
            "ready": True, "pid": os.getpid(), "runners": sorted(self.runners), "scratch": self.scratch,
            "proof": self.proof.to_json(),
        }  # fmt: skip

    async def start(self) -> None:
        """Starts every runner and proves its walls; raises ExecutorError."""
        try:
            await asyncio.gather(*(worker.start() for worker in self._workers))
            self.proof = await prove(self._workers, self.settings)
        except RunnerLostError as error:
            raise ExecutorError(f"a runner of the sandbox does not start: {error}") from None

    async def run(self, client: object, request: object, run: Run) -> RunFacts:
        """One run on whichever worker is free, repeated when the sandbox fails; raises ExecutorError."""
        failure = ""
        lend = self._lender.alone if run.alone else self._lender.lend
        for _ in range(self.settings.retries + 1):
            async with lend(request, client) as worker:
                try:
                    return await worker.run(run.code, run.stdin, run.limits, run.extras)
                except (RunnerLostError, OSError) as error:
                    failure = str(error)
            await asyncio.sleep(RETRY_PAUSE_S)  # the lack of something may pass
        raise ExecutorError(f"a run failed {self.settings.retries + 1} times in the sandbox; last: {failure}")

    async def close(self) -> None:
        """Ends the runners and wipes the scratch folders."""
        await asyncio.gather(*(worker.stop() for worker in self._workers), return_exceptions=True)
        self._places.close()
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

    def _accept(self, message: Message) -> None:
        if "ping" in message:
            self._writer.write(encode({"pong": True}))
            return
        if "cancel" in message:
            if task := self._open.get(message["cancel"]):
                task.cancel()
            return
        number = message["id"]
        self._open[number] = task = asyncio.create_task(self._answer(number, message))
        task.add_done_callback(lambda _: self._open.pop(number, None))

    async def _answer(self, number: int, message: Message) -> None:
        try:
            report = await judge_message(self._pool, message, client=self)
            self._writer.write(encode({"id": number, "results": report_to_json(report)}))
        except Exception as error:
            self._writer.write(encode({"id": number, "error": describe(error)}))
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()


async def judge_message(pool: Pool, message: Message, client: object) -> Report:
    """A request as it came over the socket, judged."""
    solution = Solution(
        code=message["code"].encode("utf-8", "surrogatepass"),
        limits=Limits(**message["limits"]),
        rule=OutputRule(**message["rule"]),
        interface=Interface(**message["interface"]),
    )
    runner = partial(pool.run, client, object())  # one borrower of workers, on behalf of its client
    return await judge_tests(
        at_most(pool.settings.workers_per_solution, runner),
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


async def live(sock: socket.socket, settings: Settings, folder: str) -> None:
    """The daemon's whole life: workers, then clients, until the last has gone."""
    pool: Pool | None = None
    refusal = ""
    try:
        try:
            pool = Pool(settings)
            await pool.start()
        except (ExecutorError, OSError) as error:
            refusal = describe(error)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if pool is None or refusal:
                writer.write(encode({"error": refusal}))
                await writer.drain()
            else:
                writer.write(encode(pool.greeting))
                await Client(pool, reader, writer).serve()

        if folder:
            sweep(os.path.dirname(folder))
            await OpenDoor(sock, folder, serve).until_empty()
        else:
            await serve(*await open_streams(sock))
    finally:
        if pool is not None:
            await pool.close()


async def live_until_told_to_end(sock: socket.socket, settings: Settings, folder: str) -> None:
    """As `live`, cut short by SIGTERM or by the end of the trainer whose own it is."""
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    life = loop.create_task(live(sock, settings, folder))
    life.add_done_callback(lambda _: end.set())
    if settings.owner_pid:
        try:  # whoever else holds the socket
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
    """Entry point: the inherited socket's number, the settings as JSON, a shared daemon's meeting folder."""
    fd, settings, folder = int(sys.argv[1]), Settings.from_json(sys.argv[2]), sys.argv[3]
    os.set_inheritable(fd, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    lower(resource.RLIMIT_STACK, STACK_BYTES, sys.maxsize)
    sys.setswitchinterval(0.001)  # while a huge output is compared in a thread, the loop waits that long
    asyncio.run(live_until_told_to_end(socket.socket(fileno=fd), settings, folder))


if __name__ == "__main__":
    main()
