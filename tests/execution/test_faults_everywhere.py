"""Parts of the sandbox, or the trainer, are killed in the middle of a run, with every backend: the run is
repeated or ends in ExecutorError, never in a verdict that the program did not earn, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import open_folder, until
from sandboxing import (
    BACKENDS,
    FORKED,
    LIMITS,
    RULE,
    Sandbox,
    alive,
    children,
    count_at_rest,
    groups,
    processes,
)

from rlef_lightning.errors import ExecutorError
from rlef_lightning.types import Report, TestCase, Verdict

pytestmark = pytest.mark.slow

IN_TIME_S = 60.0
"""Seconds within which a judgement must have ended one way or the other."""


@pytest.fixture
def fresh(backend_name: str, loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """An executor of the test's own, with one worker."""
    executor = BACKENDS[backend_name](workers=1, retries=1, grace_s=1.0)
    yield Sandbox(executor, loop)
    loop.run_until_complete(executor.close())


def runner_in_use(sandbox: Sandbox) -> int:
    """Process id of the runner of a FORKED program: below it are the template, the program, and its child."""
    below = children(sandbox.daemon)
    found = [pid for pid in below if len(children(pid)) == 3]
    return found[0] if len(below) == sandbox.idle + 1 and found else 0


def victim(sandbox: Sandbox, who: str) -> int:
    """The runner of the program that runs, or what the daemon started for it: the jail's helper, if any."""
    seen: list[int] = []

    def runs() -> bool:
        seen.append(runner_in_use(sandbox))
        return seen[-1] != 0

    assert until(runs), "the program was not seen to run"
    runner = seen[-1]
    assert runner > 0  # a signal to process 0 would go to the tests themselves
    helpers = [pid for pid, (_, parent) in processes().items() if parent == sandbox.daemon]
    return helpers[0] if who == "jail" else runner


async def judge_while_killing(sandbox: Sandbox, code: str, who: str, times: int) -> Report:
    """A judgement during which a part of the sandbox is killed so many times, each time in mid-run."""
    tests = [TestCase(stdin="", expected_stdout="7")]
    await sandbox.executor.start()
    judging = asyncio.create_task(
        sandbox.executor.judge(code, tests, limits=LIMITS, rule=RULE, stop_at_first_failure=False)
    )
    for _ in range(times):
        killed = await asyncio.to_thread(victim, sandbox, who)
        os.kill(killed, signal.SIGKILL)
        assert await asyncio.to_thread(until, lambda pid=killed: not alive(pid))
    return await asyncio.wait_for(judging, IN_TIME_S)


@pytest.mark.parametrize("who", ["runner", "jail"])
@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        ("print(7)", Verdict.ACCEPTED),
        ("print(8)", Verdict.WRONG_ANSWER),
        ("print(7)\nraise SystemExit(3)", Verdict.RUNTIME_ERROR),
    ],
)
def test_a_run_that_was_cut_off_is_repeated(fresh: Sandbox, who: str, end: str, verdict: Verdict) -> None:
    code = f"{FORKED}time.sleep(2)\n{end}"
    report = fresh.loop.run_until_complete(judge_while_killing(fresh, code, who, times=1))
    assert report.results[0].verdict is verdict
    assert report.results[0].stdout == end[6] + "\n"
    fresh.assert_healthy()


@pytest.mark.parametrize("who", ["runner", "jail"])
@pytest.mark.parametrize("answer", ["7", "8"])
def test_a_verdict_is_never_made_of_a_failure(fresh: Sandbox, who: str, answer: str) -> None:
    """The program has printed its answer, right or wrong, and is cut off as often as it is run."""
    code = f"print({answer}, flush=True)\n{FORKED}time.sleep(15)"
    with pytest.raises(ExecutorError, match="failed 2 times"):  # retries = 1
        fresh.loop.run_until_complete(judge_while_killing(fresh, code, who, times=2))
    fresh.assert_healthy()


TRAINER = """
import asyncio, sys
from rlef_lightning import execution
from rlef_lightning.types import Limits, OutputRule, TestCase

async def main():
    executor = getattr(execution, sys.argv[1])(workers=2)
    await executor.start()
    print(executor._connection.process.pid, executor._connection.scratch, flush=True)
    sys.stdin.readline()
    code = "import os, time\\nopen('file', 'w').write('7')\\nos.fork()\\ntime.sleep(15)"
    tests = [TestCase(stdin="", expected_stdout="")] * 2
    await executor.judge(
        code, tests, limits=Limits(wall_s=20), rule=OutputRule(), stop_at_first_failure=False
    )

asyncio.run(main())
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for everything temporary of one trainer."""
    with tempfile.TemporaryDirectory(prefix="rlef-test-") as name:
        yield open_folder(Path(name) / "tmp")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_trainer(backend_name: str, temporary: Path, how: signal.Signals) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, BACKENDS[backend_name].__name__], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    assert trainer.stdout is not None
    assert trainer.stdin is not None
    with trainer.stdin, trainer.stdout:
        try:
            daemon = int(trainer.stdout.readline().split()[0])
            idle = count_at_rest(daemon, workers=2)
            trainer.stdin.write("\n")
            trainer.stdin.flush()
            assert until(lambda: len(children(daemon)) == idle + 2)  # each program has forked once
            pids = {daemon, *children(daemon)}
            assert any(temporary.iterdir())  # so it is here that something would be left
            trainer.send_signal(how)
            trainer.wait(30)
            assert until(lambda: not any(map(alive, pids)))
            assert until(lambda: not groups(daemon))
            assert not any(temporary.iterdir())
            assert str(temporary) not in Path("/proc/mounts").read_text()
        finally:
            trainer.kill()
            trainer.wait()
