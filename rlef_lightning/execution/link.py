"""The daemon's end of one runner process: launch, one run after another, end. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from rlef_lightning.execution.cgroups import Group
from rlef_lightning.execution.frames import Message, encode, limits_to_json, open_streams, read_frame
from rlef_lightning.execution.inside.kernel import children_of, descendants_of
from rlef_lightning.execution.place import Place
from rlef_lightning.execution.runs import NO_EXTRAS, Extras, RunFacts
from rlef_lightning.execution.settings import Inside, Jail, Settings
from rlef_lightning.types import Limits

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from inside.runner import main; main()"
"""Loads the folder `inside` without the rest of the package."""
FAREWELL_S = 2.0
"""Seconds for a runner to end its program and itself once its socket is closed."""


class RunnerLostError(Exception):
    """The runner died, fell silent or failed; the run may be repeated on a fresh one."""


class RunnerLink:
    """A runner that has been launched. Its process ends with `end`, or when the daemon's end closes."""

    def __init__(self, jail: Jail, place: Place, settings: Settings, runners: set[int]):
        scratch = place.scratch
        self._log, self._runners = Path(scratch) / "runner.log", runners
        self._socket, theirs = socket.socketpair()
        view = place.view(theirs.fileno())
        options = {"control_fd": theirs.fileno(), **_options(jail.inside(view), place, settings)}
        runner = [place.interpreter.python, "-s", "-P", "-S", "-c", _BOOT, place.boot, json.dumps(options)]
        command = [*_through_gates(place.group), *jail.command(runner, view)]
        with theirs, open(self._log, "wb", opener=private) as log:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], start_new_session=True, env=place.environment,
                cwd=scratch, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        runners.add(self._process.pid)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._clean = False
        self.missing: tuple[str, ...] = ()
        """Walls that the runner could not put up, and why; known once it is clean."""
        self.own_disk = False
        """True: the scratch folder is a file system of its own, whatever else fills the machine's."""

    @property
    def pid(self) -> int:
        """Process id of what was launched."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True while the process has not ended."""
        return self._process.poll() is None

    async def until_clean(self, timeout_s: float) -> None:
        """Waits until the runner takes the next run; raises RunnerLostError."""
        if not self._clean:
            answer, _ = await self._answer(timeout_s)
            self.missing = tuple(answer.get("missing", self.missing))
            self.own_disk = answer.get("own_disk", self.own_disk)
            self._clean = True

    async def run(
        self, code: bytes, stdin: bytes, limits: Limits, timeout_s: float, extras: Extras = NO_EXTRAS
    ) -> RunFacts:
        """One run; raises RunnerLostError when the answer does not come within `timeout_s`."""
        _, writer = await self._connected()
        self._clean = False
        header = {"limits": limits_to_json(limits), **extras.header}
        writer.write(encode(header, code, stdin, *extras.contents))
        facts, (stdout, stderr) = await self._answer(timeout_s)
        self._clean = facts.pop("clean")
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
            self._streams = await open_streams(self._socket)
        return self._streams

    async def _answer(self, timeout_s: float) -> tuple[Message, list[bytes]]:
        reader, _ = await self._connected()
        try:
            async with asyncio.timeout(timeout_s):  # wait_for would need a task and two turns of the loop
                return await read_frame(reader)
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


def _options(inside: Inside, place: Place, settings: Settings) -> dict[str, Any]:
    """What the runner is told, see `inside/runner.py` and `inside/walls.py`."""
    return {
        "scratch": place.scratch,
        "uid": place.uid,
        "packages": place.packages,
        "namespaces": inside.namespaces,
        "neighbours": inside.neighbours,
        "readable": place.view(0).readable,
        "scratch_bytes": settings.scratch_bytes if inside.mounts else None,
        "scratch_files": settings.scratch_files,
        "outer_mounts": os.stat("/proc/self/ns/mnt").st_ino,
    }


def _through_gates(group: Group | None) -> list[str]:
    """The beginning of a command that joins the group before it becomes what follows."""
    if group is None:
        return []
    joining = " && ".join(f"echo 0 > {shlex.quote(gate)}" for gate in group.gates)
    return ["/bin/sh", "-c", f'{joining} && exec "$@"', "sh"]


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
