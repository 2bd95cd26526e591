"""Ranks of a training run without the training: processes with the variables of a launcher, each with an
executor of its own, which do what the test tells them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RANK = """
import asyncio, json, os, sys, time
from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.types import Limits, OutputRule, TestCase

executor = SubprocessExecutor(namespaces=False, **json.loads(sys.argv[1]))
limits = Limits(cpu_s=20.0, wall_s=60.0, memory_bytes=512 << 20)

async def start():
    await executor.start()
    connection = executor._connection
    return {"daemon": connection.pid, "scratch": connection.scratch, "socket": connection._reached.shared_at}

async def judge(code, tests):
    cases = [TestCase(stdin=stdin, expected_stdout=expected) for stdin, expected in tests]
    report = await executor.judge(
        code, cases, limits=limits, rule=OutputRule(), stop_at_first_failure=False
    )
    return [result.verdict for result in report.results]

async def close():
    await executor.close()

async def fork():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid

async def answer(number, name, arguments):
    try:
        reply = {"result": await globals()[name](*arguments)}
    except ExecutorError as error:
        reply = {"error": str(error)}
    print(json.dumps({"number": number, **reply}), flush=True)

async def main():
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = []
    while line := await reader.readline():
        tasks.append(asyncio.create_task(answer(*json.loads(line))))
    await executor.close()

asyncio.run(main())
"""


class Rank:
    """One such process."""

    def __init__(self, environment: Mapping[str, str], settings: Mapping[str, object]):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RANK, json.dumps(settings)], env={**kept, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._count = 0
        self._replies: dict[int, dict[str, Any]] = {}

    def ask(self, name: str, *arguments: object) -> int:
        """Begins something; its result is to be had with `reply`."""
        self._count += 1
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([self._count, name, arguments]) + "\n")
        self.process.stdin.flush()
        return self._count

    def reply(self, number: int) -> Any:
        """The result; raises RuntimeError with the text of an ExecutorError."""
        assert self.process.stdout is not None
        while number not in self._replies:
            found = json.loads(self.process.stdout.readline())
            self._replies[found["number"]] = found
        found = self._replies[number]
        if "error" in found:
            raise RuntimeError(found["error"])
        return found["result"]

    def replied(self, number: int) -> bool:
        """True when the result has been read, which happens while `reply` waits for another one."""
        return number in self._replies

    def do(self, name: str, *arguments: object) -> Any:
        """`ask` and `reply`."""
        return self.reply(self.ask(name, *arguments))

    def end(self) -> None:
        """Lets the process close its executor and end, if it lives."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with self.process.stdout, contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal and waits for the end that it brings."""
        self.process.send_signal(number)
        self.process.wait(30)


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """True once the condition holds; False when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def open_folder(path: Path) -> Path:
    """Makes a folder that programs of any user can reach and write to."""
    path.mkdir()
    path.chmod(0o777)
    for folder in path.parents:
        if folder.owner() == path.owner() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    return path
