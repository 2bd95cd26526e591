"""Backends with a helper program: the helper missing, removed or killed, and one jail per run."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxing import LIMITS, RULE, Sandbox, alive, children

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import BubblewrapExecutor, FirejailExecutor, NsjailExecutor
from rlef_lightning.execution.backends.helper import HelperExecutor
from rlef_lightning.types import Report, TestCase

pytestmark = pytest.mark.slow

BACKENDS = [NsjailExecutor, BubblewrapExecutor, FirejailExecutor]
SEVEN = [TestCase(stdin="", expected_stdout="7\n")]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.program)
def backend(request: pytest.FixtureRequest) -> type[HelperExecutor]:
    """Each backend whose helper program is installed."""
    if shutil.which(request.param.program) is None:
        pytest.skip(f"{request.param.program} is not installed")
    if request.param is FirejailExecutor and os.geteuid() != 0:
        pytest.skip("firejail lets ordinary users in by name only")
    chosen: type[HelperExecutor] = request.param
    return chosen


@pytest.fixture
def sandbox(backend: type[HelperExecutor], loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """One worker of the backend."""
    executor = backend(workers=1, retries=1, grace_s=1.0)
    yield Sandbox(executor, loop)
    loop.run_until_complete(executor.close())


async def judge(sandbox: Sandbox, code: str) -> Report:
    return await sandbox.executor.judge(code, SEVEN, limits=LIMITS, rule=RULE, stop_at_first_failure=True)


@pytest.mark.parametrize("backend_class", BACKENDS, ids=lambda backend: backend.program)
def test_a_missing_helper_is_named(
    backend_class: type[HelperExecutor], loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        ExecutorError, match=f"needs the program '{backend_class.program}'.*not on PATH"
    ) as error:
        loop.run_until_complete(backend_class().start())
    assert backend_class.how_to_get in str(error.value)


def test_a_killed_helper_is_replaced_and_the_run_repeated(sandbox: Sandbox) -> None:
    async def main() -> Report:
        task = asyncio.create_task(judge(sandbox, "import time\ntime.sleep(0.5)\nprint(7)"))
        await asyncio.sleep(0.25)
        helper = min(children(sandbox.daemon))
        os.kill(helper, signal.SIGKILL)
        return await asyncio.wait_for(task, 60)

    below = children(sandbox.daemon)
    assert sandbox.loop.run_until_complete(main()).passed
    assert not any(alive(pid) for pid in below)
    sandbox.assert_healthy()


def test_a_helper_that_is_removed_is_an_error(
    backend: type[HelperExecutor], loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    binary = tmp_path / backend.program
    shutil.copy(backend.find(), binary)
    sandbox = Sandbox(backend(workers=1, retries=1, recycle_after=1, binary=str(binary)), loop)
    try:
        assert sandbox.run("print(7)", expected="7").passed
        binary.unlink()
        with pytest.raises(ExecutorError, match="failed 2 times"):
            sandbox.run("print(7)", expected="7")
        shutil.copy(backend.find(), binary)
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()


def test_one_jail_per_run(backend: type[HelperExecutor], loop: asyncio.AbstractEventLoop) -> None:
    started = "import os\nprint(open(f'/proc/{os.getppid()}/stat').read().split()[21])"
    sandbox = Sandbox(backend(workers=1, recycle_after=1), loop)
    try:
        report = sandbox.judge(started, [("", "")] * 4)
        assert len({result.stdout for result in report.results}) == 4
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()


def test_a_killed_daemon_leaves_no_jail(sandbox: Sandbox) -> None:
    async def main() -> set[int]:
        task = asyncio.create_task(
            judge(sandbox, "import os, time\nif not os.fork(): os.setsid()\ntime.sleep(15)")
        )
        await asyncio.sleep(0.4)
        below = children(sandbox.daemon)
        os.kill(sandbox.daemon, signal.SIGKILL)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(500):
            if not any(alive(pid) for pid in below):
                break
            await asyncio.sleep(0.01)
        return below

    daemon = sandbox.daemon
    below = sandbox.loop.run_until_complete(main())
    assert len(below) > sandbox.idle
    assert not any(alive(pid) for pid in below)
    sandbox.assert_healthy()  # a new daemon, which sweeps
    assert not list(Path("/sys/fs/cgroup").glob(f"**/rlef-{daemon}-*"))
