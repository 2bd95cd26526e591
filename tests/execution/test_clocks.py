"""The time and the number of processes that a program does not wait for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sandboxing import LIMITS, Sandbox

from rlef_lightning.execution.inside import clocks
from rlef_lightning.types import Verdict


def test_what_is_waited_for_between_listing_and_reading_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 has used 0.1 s, and 0.25 s with 11, for which it has waited: 11 is listed, and its clock is gone."""
    monkeypatch.setattr(clocks, "cpu_seconds", lambda pid: {10: 0.1}.get(pid, 0.0))
    monkeypatch.setattr(clocks, "waited_cpu_seconds", lambda pid: {10: 0.25}.get(pid, 0.0))
    clock = clocks.Clock(main=10, template=9)
    assert clock.look([10, 11]) == pytest.approx(0.35)


def test_a_process_that_one_listing_misses_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "cpu_seconds", lambda pid: 0.2)
    monkeypatch.setattr(clocks, "waited_cpu_seconds", lambda pid: 0.0)
    clock = clocks.Clock(main=10, template=9)
    assert [clock.look(pids) for pids in ([10, 11], [10], [10, 11])] == pytest.approx([0.4, 0.2, 0.4])


WAITED = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        while time.process_time() < 0.15: pass
        os._exit(0)
    os.wait()
print(7)
"""


def test_time_of_processes_that_are_waited_for_counts_once(sandbox: Sandbox) -> None:
    """Six times 0.15 s."""
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
    assert result.verdict is Verdict.ACCEPTED
    assert result.stderr == ""  # where the inner fork fails, only its own process ends


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
