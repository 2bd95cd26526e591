"""CPU time of a program's processes together, while it runs and after: of the live, the waited for, the left.

A process's time passes to whoever waits for it. That somebody does is what the filter of system calls sees
to: a program that ignored its children's ends would make the kernel forget their time.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence

from .kernel import cpu_seconds, waited_cpu_seconds
from .tree import own_children


class Clock:
    """Of one program."""

    def __init__(self, main: int, template: int):
        self._kept = {main, template}
        self.reaped: list[resource.struct_rusage] = []
        """Usage of processes that the program has left to the runner, and that have ended."""

    def look(self, pids: Sequence[int]) -> float:
        """CPU seconds that the program has used at least; `pids` are its live processes.

        What was waited for is read first: a process that is waited for in between is then missing once, not
        counted twice.
        """
        waited_s = sum(map(seconds, self.reaped)) + sum(map(waited_cpu_seconds, pids))
        return waited_s + sum(map(cpu_seconds, pids))

    def reap(self) -> bool:
        """Takes leave of the dead that came to the runner as their parents ended; True: there were some.

        As zombies they would count among the program's processes until its end.
        """
        before = len(self.reaped)
        for pid in own_children():
            if pid not in self._kept:
                ended, _, usage = os.wait4(pid, os.WNOHANG)
                self.reaped += [usage] if ended else []
        return len(self.reaped) > before


def seconds(usage: resource.struct_rusage) -> float:
    """CPU seconds, user and system."""
    return usage.ru_utime + usage.ru_stime
