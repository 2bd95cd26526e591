"""What the tests of this room share: an executor for plain functions, and their own view of processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlef_lightning.execution import (
    BubblewrapExecutor,
    FirejailExecutor,
    NsjailExecutor,
    SubprocessExecutor,
)
from rlef_lightning.execution.backends.helper import HelperExecutor
from rlef_lightning.execution.client import DaemonExecutor
from rlef_lightning.execution.executor import STDIO
from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase, TestResult

LIMITS = Limits(cpu_s=5.0, wall_s=20.0, memory_bytes=512 << 20)
RULE = OutputRule()
CANARY = "canary-9f1c2e"
FORKED = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n"
"""Begins a program that shall be seen to run: alone, its process looks like a spare one."""

# A default access list that gives nobody anything, as the kernel takes it: version 2, then for the owner (1),
# the group (4) and others (32) a mode and no id.
POISON = """
import os, struct
entries = (struct.pack("<HHI", tag, 0, 0xFFFFFFFF) for tag in (1, 4, 32))
nobody = struct.pack("<I", 2) + b"".join(entries)
"""
LEAVE_NOTES = (
    POISON
    + """
for path in (".", "..", "../..", os.getcwd()):
    for leave in (
        lambda: os.setxattr(path, "user.note", b"7"),
        lambda: os.setxattr(path, "system.posix_acl_default", nobody),
        lambda: os.setxattr(path, "system.posix_acl_access", nobody),
        lambda: os.utime(path, ns=(7, 7)),
        lambda: os.chmod(path, 0o751),
        lambda: os.mkdir(path + "/note"),
    ):
        try: leave()
        except OSError: pass
try: os.rmdir("note")
except OSError: pass
print(7)
"""
)
FIND_NOTES = """
import os
for path in (".", ".."):
    kept = os.stat(path)
    print(oct(kept.st_mode), 7 in (kept.st_atime_ns, kept.st_mtime_ns), os.listxattr(path))
print(os.path.exists("../note"), os.path.exists("../../note"))
open("file", "w").write("7")
print(open("file").read())
"""
NO_NOTES = "0o40700 False []\n0o40711 False []\nFalse False\n7\n"
"""What the second program says where the first one's notes are gone."""

BACKENDS: dict[str, type[DaemonExecutor]] = {
    "subprocess": SubprocessExecutor,
    "nsjail": NsjailExecutor,
    "bubblewrap": BubblewrapExecutor,
    "firejail": FirejailExecutor,
}


def why_not(name: str) -> str:
    """Why a backend cannot be tested here; empty: it can."""
    backend = BACKENDS[name]
    if issubclass(backend, HelperExecutor) and shutil.which(backend.program) is None:
        return f"{backend.program} is not installed"
    if backend is FirejailExecutor and os.geteuid() != 0:
        return "firejail lets ordinary users in by name only"
    return ""


def processes() -> dict[int, tuple[str, int]]:
    """State and parent of every process of the machine."""
    found: dict[int, tuple[str, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                found[int(folder.name)] = state, int(parent)
    return found


def children(pid: int) -> set[int]:
    """All live processes below `pid`; the test's own view, not the package's."""
    parents = {pid: parent for pid, (state, parent) in processes().items() if state != "Z"}
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


def alive(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def groups(daemon: int) -> list[str]:
    """Control groups of a daemon. Others may vanish meanwhile, which `Path.glob` takes for an error."""
    folders = (folder for folder, _, _ in os.walk("/sys/fs/cgroup"))
    return sorted(folder for folder in folders if os.path.basename(folder).startswith(f"rlef-{daemon}-"))


def in_scratch_folder(pid: int) -> bool:
    """True for a program and for a spare process, not for the runner."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").endswith("/disk/run")
    except OSError:
        return False


def count_at_rest(daemon: int, workers: int) -> int:
    """Processes below the daemon once each worker has its spare one."""
    for _ in range(1000):
        if sum(map(in_scratch_folder, children(daemon))) == workers:
            break
        time.sleep(0.01)
    return len(children(daemon))


class Sandbox:
    """An executor with its event loop, for tests that are plain functions."""

    def __init__(self, executor: DaemonExecutor, loop: asyncio.AbstractEventLoop):
        self.executor, self.loop = executor, loop
        loop.run_until_complete(executor.start())
        self.idle = count_at_rest(self.daemon, executor.workers)
        """Processes below an idle daemon: of each worker the runner, template, spare one, and the jail's."""

    def judge(
        self,
        code: str,
        tests: Sequence[tuple[str, str]],
        limits: Limits = LIMITS,
        rule: OutputRule = RULE,
        stop: bool = False,
        interface: Interface = STDIO,
    ) -> Report:
        """A report on pairs of stdin and expected output."""
        cases = [TestCase(stdin=stdin, expected_stdout=expected) for stdin, expected in tests]
        return self.loop.run_until_complete(
            self.executor.judge(
                code, cases, limits=limits, rule=rule, stop_at_first_failure=stop, interface=interface
            )
        )

    def run(self, code: str, stdin: str = "", expected: str = "", limits: Limits = LIMITS) -> TestResult:
        """The result of a single test."""
        return self.judge(code, [(stdin, expected)], limits).results[0]

    @property
    def daemon(self) -> int:
        """Process id of the daemon."""
        assert self.executor._connection is not None
        return self.executor._connection.pid

    def runner(self) -> int:
        """Process id of one runner: below it are the template and one more, the spare or the program."""
        found = [pid for pid in children(self.daemon) if len(children(pid)) == 2]
        assert found, "no runner is alive"  # a signal to process 0 would go to the tests themselves
        return found[0]

    def runners(self) -> set[int]:
        """Process ids of all runners while the executor is idle."""
        assert self.at_rest()
        return {pid for pid in children(self.daemon) if len(children(pid)) == 2}

    def at_rest(self) -> bool:
        """True once the daemon has below it what it has when idle; False when that does not come about.

        A runner forks its next process after it has reported the last run.
        """
        for _ in range(500):
            if len(children(self.daemon)) == self.idle:
                return True
            time.sleep(0.01)
        return False

    def belongings(self) -> dict[str, object]:
        """Whatever a run might leave behind, as it is while the executor is idle."""
        assert self.executor._connection is not None
        scratch = self.executor._connection.scratch
        assert self.at_rest()
        states, below = processes(), children(self.daemon)
        dead = [pid for pid, (state, _) in states.items() if state == "Z"]
        return {
            "processes": len(below),
            "zombies": sum(states[pid][1] in {self.daemon, *below} for pid in dead),
            "descriptors": len(os.listdir(f"/proc/{self.daemon}/fd")),
            "mounts": Path("/proc/self/mounts").read_text().count(scratch),
            "groups": groups(self.daemon),
            "files": sorted(self._files(scratch)),
        }

    def _files(self, scratch: str) -> Iterator[str]:
        """Those in the workers' folders, as the machine sees them, and as each runner does."""
        for pid in {self.daemon, *children(self.daemon)}:
            for worker in Path(scratch).glob("worker-*"):
                for path in Path(f"/proc/{pid}/root{worker}").rglob("*"):
                    yield str(path.relative_to(f"/proc/{pid}/root{scratch}"))

    def assert_healthy(self) -> None:
        """A good program is accepted, and nothing but the runners lives below the daemon."""
        code, tests = "a, b = map(int, input().split())\nprint(a + b)", [("3 4\n", "7\n")] * 4
        assert self.judge(code, tests).passed
        assert self.at_rest()
