"""The time and the number of processes that a program does not wait for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sandboxing import LIMITS, Sandbox

from rlef_lightning.types import Verdict

UNWAITED = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps, and forgets what they have used
for _ in range(6):
    reader, writer = os.pipe()
    if os.fork() == 0:
        while time.process_time() < 0.15: pass
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)  # until it has ended
    os.close(reader)
print(7)
"""


@pytest.mark.every_backend
def test_time_of_processes_that_nobody_waits_for_counts(sandbox: Sandbox) -> None:
    """Six times 0.15 s are 0.9 s; looks come every 50 ms at most, so at least 0.6 s of them are seen."""
    result = sandbox.run(UNWAITED, expected="7", limits=replace(LIMITS, cpu_s=0.3))
    assert result.verdict is Verdict.TIME_LIMIT
    result = sandbox.run(UNWAITED, expected="7")
    assert result.verdict is Verdict.ACCEPTED
    assert 0.3 < result.cpu_s < 1.7


@pytest.mark.every_backend
def test_time_of_processes_too_short_for_a_look_counts_with_a_control_group(sandbox: Sandbox) -> None:
    """300 times 3 ms; a look every 50 ms sees one child, hence at most 3 of 50 ms."""
    if not sandbox.belongings()["groups"]:
        pytest.skip("this machine lets us make no control group")
    code = UNWAITED.replace("range(6)", "range(300)").replace("0.15", "0.003")
    assert sandbox.run(code, expected="7").verdict is Verdict.ACCEPTED
    result = sandbox.run(code, expected="7", limits=replace(LIMITS, cpu_s=0.3))
    assert result.verdict is Verdict.TIME_LIMIT, result


WAITED = UNWAITED.replace("signal.SIG_IGN", "signal.SIG_DFL").replace("# until it has ended", "; os.wait()")


def test_time_of_processes_that_are_waited_for_counts_once(sandbox: Sandbox) -> None:
    result = sandbox.run(WAITED, expected="7")
    assert result.verdict is Verdict.ACCEPTED
    assert 0.89 < result.cpu_s < 1.7


DOUBLE_FORKS = """
import os
for _ in range(200):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)  # by then the runner is its parent
        os._exit(0)
    os.wait()
print(7)
"""


@pytest.mark.every_backend
def test_ended_processes_that_were_left_behind_are_not_counted(sandbox: Sandbox) -> None:
    result = sandbox.run(DOUBLE_FORKS, expected="7", limits=replace(LIMITS, processes=32))
    assert result.verdict is Verdict.ACCEPTED, result


LEFT_BEHIND = """
import os, time
reader, writer = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        while time.process_time() < 0.3: pass
    os._exit(0)
os.wait()
os.close(writer)
os.read(reader, 1)
time.sleep(0.05)
print(7)
"""


def test_time_of_ended_processes_that_were_left_behind_counts(sandbox: Sandbox) -> None:
    result = sandbox.run(LEFT_BEHIND, expected="7")
    assert result.verdict is Verdict.ACCEPTED
    assert 0.3 <= result.cpu_s < 0.5
    assert sandbox.run(LEFT_BEHIND, limits=replace(LIMITS, cpu_s=0.2)).verdict is Verdict.TIME_LIMIT
