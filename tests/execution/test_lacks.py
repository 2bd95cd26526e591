"""What the sandbox needs runs out: room on the disk, descriptors, the interpreter. Never a verdict, never a
hang, but an ExecutorError that says what is lacking; and all is well once it is there again."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import open_folder, until
from sandboxing import BACKENDS, FORKED, LIMITS, RULE, Sandbox, alive, children

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.execution.backends.helper import HelperExecutor
from rlef_lightning.types import Report, TestCase

pytestmark = pytest.mark.slow

IN_TIME_S = 60.0
"""Seconds within which a judgement must have ended one way or the other."""


@pytest.fixture
def fresh(backend_name: str, loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """An executor of the test's own, with one worker, of each backend."""
    sandbox = Sandbox(BACKENDS[backend_name](workers=1, retries=1, start_timeout_s=20.0), loop)
    yield sandbox
    loop.run_until_complete(sandbox.executor.close())


async def judge(sandbox: Sandbox, code: str = "print(7)") -> Report:
    """Judges a right program."""
    tests = [TestCase(stdin="", expected_stdout="7")]
    return await sandbox.executor.judge(code, tests, limits=LIMITS, rule=RULE, stop_at_first_failure=True)


def assert_fails(sandbox: Sandbox, reason: str) -> None:
    """A judgement of a right program ends in ExecutorError."""
    with pytest.raises(ExecutorError, match=reason):
        sandbox.loop.run_until_complete(asyncio.wait_for(judge(sandbox), IN_TIME_S))


def kill_runner(sandbox: Sandbox) -> None:
    """Makes the daemon start another one for the next run."""
    sandbox.loop.run_until_complete(sandbox.executor.start())
    runner = sandbox.runner()
    os.kill(runner, signal.SIGKILL)
    assert until(lambda: not alive(runner))


def test_no_descriptors(fresh: Sandbox) -> None:
    fresh.assert_healthy()
    before = resource.prlimit(fresh.daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(fresh.daemon, resource.RLIMIT_NOFILE, (3, before[1]))
    kill_runner(fresh)
    assert_fails(fresh, "failed 2 times .* Too many open files")
    assert_fails(fresh, "failed 2 times .* Too many open files")
    resource.prlimit(fresh.daemon, resource.RLIMIT_NOFILE, before)
    fresh.assert_healthy()


def test_no_descriptors_at_a_shared_daemons_door(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def executor() -> SubprocessExecutor:
        return SubprocessExecutor(workers=1, share_as="crowded", start_timeout_s=5.0)

    one, other = Sandbox(executor(), loop), executor()
    try:
        one.assert_healthy()
        daemon = one.daemon
        before = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon, resource.RLIMIT_NOFILE, (3, before[1]))
        with pytest.raises(ExecutorError, match="not ready after 5 s"):
            loop.run_until_complete(other.start())
        assert one.run("print(7)", expected="7").passed  # who is in is served
        resource.prlimit(daemon, resource.RLIMIT_NOFILE, before)
        assert Sandbox(other, loop).run("print(7)", expected="7").passed
        one.assert_healthy()
    finally:
        one.executor.close_now()
        other.close_now()
    assert not any(tmp_path.iterdir())


def test_no_interpreter(fresh: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3"
    python.symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "executable", str(python))
    fresh.assert_healthy()
    python.rename(tmp_path / "gone")
    os.kill(fresh.daemon, signal.SIGKILL)
    assert_fails(fresh, f"daemon cannot be started: .* '{python}'")
    (tmp_path / "gone").rename(python)
    fresh.assert_healthy()


WITHOUT_BOOT = {
    "nsjail": "",  # it is not always so quick as to give its reason
    "bubblewrap": "Can't find source path",
}
"""Of helpers that show the folder to the jail; with the others the interpreter finds no module there."""


def test_what_a_runner_starts_from_is_gone(fresh: Sandbox, backend_name: str) -> None:
    connection = fresh.executor._connection
    assert connection is not None
    boot = Path(connection.scratch) / "boot"
    boot.rename(boot.with_name("gone"))
    kill_runner(fresh)
    said = WITHOUT_BOOT.get(backend_name, "No module named")
    assert_fails(fresh, f"failed 2 times .* a runner died; it said: .*{said}")
    boot.with_name("gone").rename(boot)
    fresh.assert_healthy()


def test_the_helper_program_is_gone(
    backend_name: str, loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    backend = BACKENDS[backend_name]
    if not issubclass(backend, HelperExecutor):
        pytest.skip("has no helper program")
    helper = tmp_path / backend.program
    helper.symlink_to(backend.find())
    sandbox = Sandbox(backend(workers=1, retries=1, start_timeout_s=20.0, binary=str(helper)), loop)
    try:
        sandbox.assert_healthy()
        helper.rename(tmp_path / "gone")
        kill_runner(sandbox)
        assert_fails(sandbox, f"failed 2 times .* a runner died; it said: .*{helper}")
        os.kill(daemon := sandbox.daemon, signal.SIGKILL)
        assert until(lambda: not alive(daemon))
        assert_fails(sandbox, f"needs the program '{helper}'")  # another daemon is not even started
        (tmp_path / "gone").rename(helper)
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 300 MB for everything temporary."""
    with tempfile.TemporaryDirectory(prefix="rlef-test-") as name:
        disk = open_folder(Path(name) / "disk")
        disk.parent.chmod(0o711)
        mount = ["mount", "-t", "tmpfs", "-o", "size=300m,mode=0711", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("needs the right to mount a file system")
        try:
            monkeypatch.setattr(tempfile, "tempdir", str(disk))
            yield disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        found = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize)
    return filler


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_no_room_on_the_disk(loop: asyncio.AbstractEventLoop, small_disk: Path) -> None:
    sandbox = Sandbox(SubprocessExecutor(workers=1, retries=1, namespaces=False), loop)
    try:
        sandbox.assert_healthy()
        filler = fill(small_disk)
        assert_fails(sandbox, r"failed 2 times .* less than file_bytes \(67108864\) free")
        assert_fails(sandbox, "less than file_bytes")
        filler.unlink()
        sandbox.assert_healthy()
        filler = fill(small_disk)
        os.kill(sandbox.daemon, signal.SIGKILL)
        assert_fails(sandbox, "No space left on device|less than file_bytes")  # another daemon cannot start
        filler.unlink()
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()
    assert not any(small_disk.iterdir())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_fills_up_during_a_run_is_no_verdict(
    loop: asyncio.AbstractEventLoop, small_disk: Path
) -> None:
    code = f"{FORKED}time.sleep(1)\nwith open('f', 'w') as f:\n    f.write('7' * 100_000)\nprint(7)"

    async def main(sandbox: Sandbox) -> None:
        await sandbox.executor.start()
        judging = asyncio.create_task(judge(sandbox, code))
        assert await asyncio.to_thread(until, lambda: len(children(sandbox.daemon)) > sandbox.idle)
        filler = fill(small_disk)
        with pytest.raises(ExecutorError, match="less than file_bytes"):
            await asyncio.wait_for(judging, IN_TIME_S)
        filler.unlink()

    sandbox = Sandbox(SubprocessExecutor(workers=1, retries=1, namespaces=False), loop)
    try:
        loop.run_until_complete(main(sandbox))
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_scratch_folder_in_memory_does_not_care(loop: asyncio.AbstractEventLoop, small_disk: Path) -> None:
    sandbox = Sandbox(SubprocessExecutor(workers=1, retries=1), loop)
    try:
        filler = fill(small_disk)
        sandbox.assert_healthy()
        assert sandbox.run("print(open('f', 'w').write('7' * 100_000))", expected="100000").passed
        filler.unlink()
    finally:
        sandbox.executor.close_now()
