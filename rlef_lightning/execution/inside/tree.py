"""The processes below the runner: the template, and whatever the program is and has left behind."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import time
from collections.abc import Iterable

from .kernel import descendants_of

Usage = resource.struct_rusage


@functools.cache
def _children_file() -> int:
    """Kept open: it is read once for each run."""
    return os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)


def own_children() -> list[int]:
    """Direct children of the runner, which has one thread."""
    return list(map(int, os.pread(_children_file(), 1 << 16, 0).split()))


def programs_beside(template: int) -> list[int]:
    """The program's processes, parents before children, those included that it detached."""
    return [pid for pid in descendants_of(os.getpid()) if pid != template]


def kill_and_reap(main: int, template: int) -> tuple[int, Usage, list[Usage]]:
    """Ends the program and all that it left behind; (wait status, its usage, usage of the strays).

    The runner is the subreaper, so every process of the program is below it however it detached
    itself, and nothing else is but the template. Stopping all before killing any keeps a fork bomb from
    outrunning us.
    """
    os.kill(main, signal.SIGKILL)  # not reaped yet, so the id cannot be another's
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(main, signal.SIGKILL)
    _, status, usage = os.wait4(main, 0)
    strays: list[Usage] = []
    with contextlib.suppress(ChildProcessError):  # not even the template is left
        while True:
            pid, _, stray = os.wait4(-1, os.WNOHANG)
            if pid and pid != template:
                strays.append(stray)
            elif not pid and (own_children() == [template] or not stop_then_kill(template)):
                break
    return status, usage, strays


def stop_then_kill(template: int) -> bool:
    """SIGSTOP for every process of the program until no new one appears, then SIGKILL for all.

    Returns False when there was none.
    """
    stopped: set[int] = set()
    while new := set(programs_beside(template)) - stopped:
        signal_all(new, signal.SIGSTOP)
        stopped |= new
    signal_all(stopped, signal.SIGKILL)
    if stopped:
        time.sleep(0.0005)  # they need a moment to die
    return bool(stopped)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Sends a signal to each; those that have gone meanwhile are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
