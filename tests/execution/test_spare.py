"""A process that is forked before its job is known: its age does not count, and its death is no verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sandboxing import LIMITS, Sandbox, alive, children, in_scratch_folder

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import SubprocessExecutor


@pytest.fixture
def fresh(loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """An executor of the test's own, with one worker."""
    executor = SubprocessExecutor(workers=1, retries=1)
    yield Sandbox(executor, loop)
    loop.run_until_complete(executor.close())


def spare(sandbox: Sandbox) -> int:
    """The waiting process, once it has set itself up."""
    for _ in range(1000):
        if found := list(filter(in_scratch_folder, children(sandbox.daemon))):
            break
        time.sleep(0.01)
    (pid,) = found
    return pid


def test_each_run_is_a_process_of_its_own(fresh: Sandbox) -> None:
    seen = [spare(fresh)]
    for _ in range(3):
        assert fresh.run("print(7)", expected="7").passed
        seen.append(spare(fresh))
    assert len(set(seen)) == 4


def test_a_run_starts_when_its_process_gets_the_job(fresh: Sandbox) -> None:
    spare(fresh)
    time.sleep(2.5)
    result = fresh.run("print(7)", expected="7", limits=replace(LIMITS, wall_s=2.0))
    assert result.passed
    assert result.wall_s < 2


def test_a_spare_process_that_dies_is_no_verdict(fresh: Sandbox) -> None:
    os.kill(spare(fresh), signal.SIGKILL)
    assert fresh.run("print(7)", expected="7").passed
    fresh.assert_healthy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("retries", "wanted"), [(1, ""), (0, "had not begun when its wall limit of 2 s was over")]
)
def test_a_process_that_never_begins_is_no_verdict(
    loop: asyncio.AbstractEventLoop, retries: int, wanted: str
) -> None:
    """As on a machine that is so busy that a program's process gets no processor before its limit."""
    executor = SubprocessExecutor(workers=1, retries=retries)
    sandbox = Sandbox(executor, loop)
    try:
        os.kill(spare(sandbox), signal.SIGSTOP)
        limits = replace(LIMITS, wall_s=2.0)
        with pytest.raises(ExecutorError, match=wanted) if wanted else contextlib.nullcontext():
            assert sandbox.run("print(7)", expected="7", limits=limits).passed
        sandbox.assert_healthy()
    finally:
        loop.run_until_complete(executor.close())


def test_a_spare_process_dies_with_its_runner(fresh: Sandbox) -> None:
    waiting = spare(fresh)
    os.kill(fresh.runner(), signal.SIGKILL)
    for _ in range(500):
        if not alive(waiting):
            break
        time.sleep(0.01)
    assert not alive(waiting)
    fresh.assert_healthy()


def test_the_death_of_what_it_is_copied_from_is_no_verdict(fresh: Sandbox) -> None:
    waiting = spare(fresh)
    (template,) = (pid for pid in children(fresh.daemon) if not children(pid) and pid != waiting)
    os.kill(template, signal.SIGKILL)
    for _ in range(3):
        assert fresh.run("print(7)", expected="7").passed
    fresh.assert_healthy()


def test_limits_hold_for_the_run_and_not_for_the_process(fresh: Sandbox) -> None:
    code = "import resource\nprint(resource.getrlimit(resource.RLIMIT_AS)[0])"
    for size in (256 << 20, 512 << 20, 256 << 20):
        limits = replace(LIMITS, memory_bytes=size)
        assert fresh.run(code, expected=str(size), limits=limits).passed


def test_a_program_that_forks_finds_the_library_as_after_any_fork(fresh: Sandbox) -> None:
    code = """
import os, random, threading
before = random.getstate()
thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()
if os.fork() == 0:
    same = random.getstate() == before  # the library gives each copy a seed of its own
    print(same, threading.active_count(), flush=True)
    os._exit(0)
os.wait()
print(threading.main_thread().native_id == os.getpid(), random.getstate() == before, threading.active_count())
"""
    assert fresh.run(code, expected="False 1\nTrue True 2\n").passed


def test_a_program_may_register_hooks_of_its_own(fresh: Sandbox) -> None:
    code = """
import os
say = lambda text: lambda: print(text, flush=True)
os.register_at_fork(before=say("before"), after_in_child=say("child"))
if os.fork() == 0:
    os._exit(0)
os.wait()
print(os.register_at_fork.__module__)
"""
    assert fresh.run(code, expected="before\nchild\nposix\n").passed


LOOK_AROUND = """import gc, linecache, sys
print(sorted(vars()), sys.argv, sys.orig_argv, gc.isenabled())
print(list(linecache.cache), linecache.getline(__file__, 1), sorted(sys.modules))
print(sys.modules["__main__"].__dict__ is vars(), sys.stdin.tell(), sys.stdout.line_buffering)"""


def test_what_it_rehearses_leaves_no_trace(fresh: Sandbox) -> None:
    """Neither of its rehearsal nor of its waiting: in a full queue there is no time for that."""
    spare(fresh)
    time.sleep(0.2)  # ample
    seen = [fresh.run(LOOK_AROUND).stdout]
    report = fresh.judge(LOOK_AROUND, [("", "")] * 8)
    assert {result.stdout for result in report.results} == set(seen)
    assert "'solve'" not in seen[0]
    assert "solution.py" in seen[0]
