"""The daemon's end of one runner process: launch, one run after another, end. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlef_lightning.execution.frames import Message, encode, limits_to_json, read_frame
from rlef_lightning.execution.inside.kernel import children_of, descendants_of
from rlef_lightning.execution.judge import RunFacts
from rlef_lightning.execution.settings import Jail
from rlef_lightning.types import Limits

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from inside.runner import main; main()"
"""Loads the folder `inside` without the rest of the package."""
FAREWELL_S = 2.0
"""Seconds for a runner to end its program and itself once its socket is closed."""


class RunnerLostError(Exception):
    """The runner died, fell silent or failed; the run may be repeated on a fresh one."""


class RunnerLink:
    """A runner that has been launched. Its process ends with `end`, or when the daemon's end closes."""

    def __init__(
        self, jail: Jail, options: Mapping[str, Any], environment: Mapping[str, str], runners: set[int]
    ):
        scratch = options["scratch"]
        self._log, self._runners = Path(scratch) / "runner.log", runners
        self._socket, theirs = socket.socketpair()
        runner = [sys.executable, "-s", "-P", "-S", "-c", _BOOT, str(Path(__file__).parent)]
        argument = json.dumps({**options, "control_fd": theirs.fileno()})
        command = jail.command([*runner, argument], scratch=scratch, control_fd=theirs.fileno())
        with theirs, open(self._log, "wb", opener=private) as log:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], start_new_session=True, env=environment, cwd=scratch,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        runners.add(self._process.pid)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._clean = False

    @property
    def alive(self) -> bool:
        """True while the process has not ended."""
        return self._process.poll() is None

    async def until_clean(self, timeout_s: float) -> None:
        """Waits until the runner takes the next run; raises RunnerLostError."""
        if not self._clean:
            await self._answer(timeout_s)
            self._clean = True

    async def run(self, code: bytes, stdin: bytes, limits: Limits, timeout_s: float) -> RunFacts:
        """One run; raises RunnerLostError when the answer does not come within `timeout_s`."""
        _, writer = await self._connected()
        self._clean = False
        writer.write(encode({"limits": limits_to_json(limits)}, code, stdin))
        facts, (stdout, stderr) = await self._answer(timeout_s)
        return RunFacts(**facts, stdout=stdout, stderr=stderr)

    async def end(self) -> None:
        """Ends the process and all below it. A healthy runner cleans up itself; another is killed."""
        if self._streams is not None:
            self._streams[1].close()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        await ended_within(self._process, FAREWELL_S)
        self._process.kill()
        self._process.wait()
        self._runners.discard(self._process.pid)
        kill_orphans(self._runners)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(sock=self._socket)
        return self._streams

    async def _answer(self, timeout_s: float) -> tuple[Message, list[bytes]]:
        reader, _ = await self._connected()
        try:
            return await asyncio.wait_for(read_frame(reader), timeout_s)
        except TimeoutError:
            raise RunnerLostError(f"a runner did not answer within {timeout_s:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            raise RunnerLostError(f"a runner died; it said: {self._said()!r}") from None

    def _said(self) -> str:
        """The end of what the runner has printed."""
        try:
            return self._log.read_text(errors="replace")[-2000:]
        except OSError as error:
            return f"({error})"


def private(path: str, flags: int) -> int:
    """An opener of files that programs cannot read."""
    return os.open(path, flags, 0o600)


async def ended_within(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """True when the child process ends in time; wakes up with its end, not by polling."""
    if process.poll() is not None:
        return True
    loop = asyncio.get_running_loop()
    try:
        descriptor, ended = os.pidfd_open(process.pid), asyncio.Event()
    except OSError:  # no descriptor is left: it is not waited for
        return False
    loop.add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), timeout_s)
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def kill_orphans(runners: set[int]) -> None:
    """Kills what dead runners left: the daemon, the next subreaper above them, has no other children."""
    while orphans := [pid for pid in children_of(os.getpid()) if pid not in runners]:
        for pid in orphans:
            for each in (pid, *descendants_of(pid)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(each, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
