"""CPU time of a program's processes together, those included that nobody has waited for.

A process's time passes to whoever waits for it. A program that ignores SIGCHLD has no need to wait: the
kernel then forgets its children together with their time. So what was seen of each process is kept.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Sequence

from .kernel import cpu_seconds, waited_cpu_seconds
from .tree import own_children


class Clock:
    """Of one program. Of what ended between two looks it knows only what the first one has seen."""

    def __init__(self, main: int, template: int):
        self._kept = {main, template}
        self._seen: dict[int, float] = {}
        self._gone_s = 0.0
        self.reaped: list[resource.struct_rusage] = []
        """Usage of processes that the program has left to the runner, and that have ended."""
        self.seen_s = 0.0
        """What all processes together have used at least."""

    def look(self, pids: Sequence[int]) -> float:
        """CPU seconds that the program has used at least; `pids` are its live processes, parents first.

        Both sums are below the truth, and so is the larger one. What was waited for is read first: a process
        that is waited for in between is then missing once, not counted twice.
        """
        waited_s = sum(map(seconds, self.reaped)) + sum(map(waited_cpu_seconds, pids))
        now = {pid: max(cpu_seconds(pid), self._seen.get(pid, 0.0)) for pid in pids}
        self._gone_s += sum(used_s for pid, used_s in self._seen.items() if pid not in now)
        self._seen = now
        self.seen_s = max(self.seen_s, sum(now.values()) + max(waited_s, self._gone_s))
        return self.seen_s

    def reap(self, *_signal: object) -> None:
        """Takes leave of dead processes that came to the runner when their parents ended; a signal handler.

        As zombies they would count among the program's processes until its end.
        """
        for pid in own_children():
            if pid not in self._kept:
                with contextlib.suppress(ChildProcessError):
                    ended, _status, usage = os.wait4(pid, os.WNOHANG)
                    self.reaped += [usage] if ended else []


def seconds(usage: resource.struct_rusage) -> float:
    """CPU seconds, user and system."""
    return usage.ru_utime + usage.ru_stime
