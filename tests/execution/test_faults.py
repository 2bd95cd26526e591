"""What happens when parts of the sandbox, or the trainer, die: retried or ExecutorError, and nothing left."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxing import FORKED, LIMITS, RULE, Sandbox, alive, children, count_at_rest

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.execution.scratch import PREFIX, sweep_abandoned
from rlef_lightning.types import Report, TestCase

pytestmark = pytest.mark.slow

SLEEP = "import time\ntime.sleep(0.5)\nprint(7)"
SEVEN = [TestCase(stdin="", expected_stdout="7\n")]


@pytest.fixture
def fresh(loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """An executor of the test's own, with one worker."""
    executor = SubprocessExecutor(workers=1, retries=1, grace_s=1.0)
    yield Sandbox(executor, loop)
    loop.run_until_complete(executor.close())


def gone(pids: set[int], timeout_s: float = 5.0) -> bool:
    """True when all processes end in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


async def judge(sandbox: Sandbox, code: str = SLEEP) -> Report:
    return await sandbox.executor.judge(code, SEVEN, limits=LIMITS, rule=RULE, stop_at_first_failure=False)


async def judge_while(sandbox: Sandbox, number: signal.Signals, *, daemon: bool, times: int = 1) -> Report:
    """A judgement during which the daemon or its runner gets a signal."""
    await sandbox.executor.start()
    runner = sandbox.runner()
    task = asyncio.create_task(judge(sandbox))
    for _ in range(times):
        await asyncio.sleep(0.25)
        connection = sandbox.executor._connection
        assert connection is not None
        pid = connection.process.pid
        os.kill(pid if daemon else runner, number)
    return await asyncio.wait_for(task, 30)


def test_a_dead_runner_is_replaced_and_the_run_repeated(fresh: Sandbox) -> None:
    assert fresh.loop.run_until_complete(judge_while(fresh, signal.SIGKILL, daemon=False)).passed
    fresh.assert_healthy()


def test_a_hung_runner_is_replaced(fresh: Sandbox) -> None:
    async def main() -> Report:
        await fresh.executor.start()
        await asyncio.sleep(0.3)  # idle by now; hung while it cleans up, it would be given CLEANING_S
        os.kill(fresh.runner(), signal.SIGSTOP)
        limits = replace(LIMITS, wall_s=0.2)
        return await fresh.executor.judge(
            "print(7)", SEVEN, limits=limits, rule=RULE, stop_at_first_failure=True
        )

    assert fresh.loop.run_until_complete(main()).passed
    fresh.assert_healthy()


def test_a_dead_daemon_is_replaced_and_the_judgement_repeated(fresh: Sandbox) -> None:
    assert fresh.loop.run_until_complete(judge_while(fresh, signal.SIGKILL, daemon=True)).passed
    fresh.assert_healthy()


def test_a_daemon_that_keeps_dying_is_an_error(fresh: Sandbox) -> None:
    async def main() -> None:
        await fresh.executor.start()
        task = asyncio.create_task(judge(fresh, FORKED + "time.sleep(15)\nprint(7)"))
        for _ in range(2):  # retries = 1
            while not (alive(fresh.daemon) and len(children(fresh.daemon)) > fresh.idle):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            os.kill(killed := fresh.daemon, signal.SIGKILL)
            while alive(killed):  # noqa: ASYNC110  # on a busy machine it takes a moment
                await asyncio.sleep(0.01)
        await asyncio.wait_for(task, 30)

    with pytest.raises(ExecutorError, match="died 2 times"):
        fresh.loop.run_until_complete(main())
    fresh.assert_healthy()


def test_runners_and_programs_die_with_a_killed_daemon(fresh: Sandbox) -> None:
    async def main() -> set[int]:
        await fresh.executor.start()
        task = asyncio.create_task(judge(fresh, "import os, time\nos.fork()\ntime.sleep(15)"))
        await asyncio.sleep(0.3)
        below = children(fresh.daemon)
        assert len(below) == fresh.idle + 1
        os.kill(fresh.daemon, signal.SIGKILL)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return below

    assert gone(fresh.loop.run_until_complete(main()))


@pytest.mark.parametrize("now", [False, True])
def test_close_leaves_nothing(fresh: Sandbox, now: bool) -> None:
    async def main() -> None:
        await fresh.executor.start()
        task = asyncio.create_task(judge(fresh, "import os, time\nos.fork()\nos.setsid()\ntime.sleep(15)"))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    fresh.loop.run_until_complete(main())
    connection = fresh.executor._connection
    assert connection is not None
    pids = {fresh.daemon, *children(fresh.daemon)}
    scratch = Path(connection.scratch)
    assert scratch.is_dir()
    fresh.executor.close_now() if now else fresh.loop.run_until_complete(fresh.executor.close())
    assert gone(pids, 0.1)
    assert not scratch.exists()
    fresh.assert_healthy()  # it may be started again


def test_a_cancelled_judgement_ends_its_program(fresh: Sandbox) -> None:
    async def main() -> None:
        await fresh.executor.start()
        task = asyncio.create_task(judge(fresh, "import time\ntime.sleep(15)"))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        started = time.monotonic()
        assert (await judge(fresh, "print(7)")).passed
        assert time.monotonic() - started < 5

    fresh.loop.run_until_complete(main())
    fresh.assert_healthy()


def test_what_a_cancelled_judgement_had_queued_does_not_run(fresh: Sandbox) -> None:
    tests = [TestCase(stdin="", expected_stdout="")] * 20  # of 15 s each: 300 s if they ran

    async def main() -> None:
        judging = fresh.executor.judge(
            FORKED + "time.sleep(15)", tests, limits=LIMITS, rule=RULE, stop_at_first_failure=False
        )
        task = asyncio.create_task(judging)
        while len(children(fresh.daemon)) <= fresh.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(5):
            assert (await judge(fresh, "print(7)")).passed

    fresh.loop.run_until_complete(asyncio.wait_for(main(), 60))


def test_a_request_larger_than_any_buffer(fresh: Sandbox) -> None:
    data = "x" * 20_000_000
    assert fresh.judge("print(input())", [(data, data)], replace(LIMITS, output_bytes=32 << 20)).passed


def test_runners_are_recycled(loop: asyncio.AbstractEventLoop) -> None:
    sandbox = Sandbox(SubprocessExecutor(workers=1, recycle_after=3), loop)
    try:
        started = "import os\nprint(open(f'/proc/{os.getppid()}/stat').read().split()[21])"
        report = sandbox.judge(started, [("", "")] * 9)
        assert len({result.stdout for result in report.results}) in (3, 4)
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()


def test_without_a_user_of_its_own_a_swapped_scratch_folder_harms_nothing(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("kept")
    swap = f"""
import os
home = os.environ["HOME"]
os.chdir("/")
os.rmdir(home)
os.symlink({str(tmp_path)!r}, home)
"""
    sandbox = Sandbox(SubprocessExecutor(workers=1, drop_user=False, required=[]), loop)
    try:
        sandbox.run(swap)  # refused, or done: either way it harms nothing
        assert sandbox.run("import os\nprint(os.listdir('.'))", expected="[]").passed
        assert (tmp_path / "kept").read_text() == "kept"
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()


def test_numpy_can_be_loaded_beforehand(loop: asyncio.AbstractEventLoop) -> None:
    pytest.importorskip("numpy")
    sandbox = Sandbox(SubprocessExecutor(workers=1, preload_numpy=True), loop)
    code = "import numpy as np\na = np.ones((200, 200))\nprint(int((a @ a).sum()), np.linalg.det(np.eye(3)))"
    try:
        assert sandbox.run(code, expected="8000000 1.0").passed
        assert sandbox.run("import threading\nprint(threading.active_count())", expected="1").passed
        draw = "import numpy as np\nprint(np.random.randint(10**9))"
        seeded = "import numpy as np\nprint(np.random.RandomState(0).randint(10**9))"
        assert sandbox.run(draw).stdout == sandbox.run(draw).stdout == sandbox.run(seeded).stdout
        sandbox.assert_healthy()
    finally:
        sandbox.executor.close_now()


def test_a_daemon_killed_together_with_its_runners_leaves_no_program(fresh: Sandbox) -> None:
    async def main() -> set[int]:
        await fresh.executor.start()
        task = asyncio.create_task(judge(fresh, "import time\ntime.sleep(15)"))
        await asyncio.sleep(0.3)
        pids = {fresh.daemon, *children(fresh.daemon)}
        for pid in sorted(pids)[:2]:
            os.kill(pid, signal.SIGKILL)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return pids

    assert gone(fresh.loop.run_until_complete(main()))


def test_a_pickled_executor_is_a_configuration(fresh: Sandbox) -> None:
    fresh.assert_healthy()
    copy = pickle.loads(pickle.dumps(fresh.executor))
    assert copy.workers == 1
    assert copy._connection is None


def test_another_event_loop_gets_a_daemon_of_its_own() -> None:
    executor = SubprocessExecutor(workers=1)
    sandbox = Sandbox(executor, asyncio.new_event_loop())
    assert asyncio.run(judge(sandbox, "print(7)")).passed
    assert asyncio.run(judge(sandbox, "print(7)")).passed
    pid = sandbox.daemon
    executor.close_now()
    sandbox.loop.close()
    assert gone({pid}, 0.1)


def test_a_daemon_that_cannot_start_is_an_error(fresh: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.executor.close_now()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExecutorError, match="died while it started"):
        fresh.loop.run_until_complete(fresh.executor.start())


TRAINER = """
import asyncio, sys, time
from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.execution.scratch import PREFIX, sweep_abandoned
from rlef_lightning.types import Limits, OutputRule, TestCase

async def main():
    executor = SubprocessExecutor(workers=2)
    await executor.start()
    print(executor._connection.process.pid, executor._connection.scratch, flush=True)
    if sys.argv[1] == "exits":
        return executor
    sys.stdin.readline()
    code = "import os, time\\nos.fork()\\ntime.sleep(15)"
    tests = [TestCase(stdin="", expected_stdout="")] * 2
    limits = Limits(wall_s=20)
    await executor.judge(code, tests, limits=limits, rule=OutputRule(), stop_at_first_failure=False)

executor = asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exits"])
def test_nothing_outlives_the_trainer(how: str) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert trainer.stdout is not None
        assert trainer.stdin is not None
        daemon, scratch = trainer.stdout.readline().split()
        idle = count_at_rest(int(daemon), workers=2)
        pids = {int(daemon), *children(int(daemon))}
        if how != "exits":
            trainer.stdin.write("\n")
            trainer.stdin.flush()
            deadline = time.monotonic() + 10
            while len(children(int(daemon))) < idle + 2 and time.monotonic() < deadline:
                pass
            assert len(children(int(daemon))) == idle + 2  # each program has forked once
            pids |= children(int(daemon))
            trainer.send_signal(signal.Signals[how])
        trainer.wait(10)
        assert gone(pids)
        assert not Path(scratch).exists()
    finally:
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()
        trainer.stdin.close()


def test_the_folder_of_a_trainer_and_daemon_that_died_together_is_swept(fresh: Sandbox) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, "works"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    with trainer.stdout:
        daemon, scratch = trainer.stdout.readline().split()
    pids = {int(daemon), *children(int(daemon))}
    os.kill(int(daemon), signal.SIGSTOP)  # so that it cannot clean up before it is killed, too
    trainer.kill()
    os.kill(int(daemon), signal.SIGKILL)
    trainer.wait()
    assert gone(pids)
    assert Path(scratch).exists()
    fresh.executor.close_now()
    fresh.assert_healthy()
    assert not Path(scratch).exists()


def test_what_was_left_half_removed_is_swept_when_it_is_old(tmp_path: Path) -> None:
    for name, age_s in {"old": 7200, "new": 60}.items():
        folder = tmp_path / f"{PREFIX}{name}.0123456789abcdef"
        (folder / "0" / "worker-0").mkdir(parents=True)
        os.utime(folder, (time.time() - age_s,) * 2)
    sweep_abandoned(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}new.0123456789abcdef"]


def test_the_room_loads_no_heavy_library() -> None:
    code = (
        "import rlef_lightning.execution, rlef_lightning.execution.daemon, sys\n"
        "print(sorted({'torch', 'numpy', 'lightning', 'vllm', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
