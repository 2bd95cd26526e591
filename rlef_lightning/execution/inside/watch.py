"""a running program -> facts and output. Knows clocks, limits and process trees; judges nothing."""

from __future__ import annotations

import os
import resource
import select
import time
from collections.abc import Iterable
from typing import Any

from .clocks import Clock, seconds
from .files import put_files, read_answer
from .memory import memory_beyond, waited_for_cpu_seconds
from .program import Job
from .spare import Spare
from .tree import kill_and_reap, programs_beside
from .values import VALUE_BYTES

READ_BYTES = 64 << 10
"""At a time; for more than 128 KiB the C library maps memory anew, which takes ten times as long."""
FIRST_TICK_S, LAST_TICK_S = 0.005, 0.05
"""Seconds between two looks at the clocks: most programs end before the first one."""


def run(job: Job, control: int, spare: Spare) -> tuple[dict[str, Any], bytes, bytes]:
    """Runs one program to its end: (facts, answer, stderr)."""
    if job.files:
        put_files(job.folder, job.files, job.uid)
    watch = Watch(spare, job, control)
    try:
        watch.until_end()
    finally:
        wall_s = time.monotonic() - watch.started
        ended = kill_and_reap(spare.pid, spare.template)
    try:
        watch.drain()
        answer = watch.answer()
        return facts(watch, wall_s, *ended), answer, bytes(watch.streams[watch.err])
    finally:
        for fd in (*spare.readers, watch.pidfd):
            os.close(fd)


def facts(
    watch: Watch,
    wall_s: float,
    status: int,
    usage: resource.struct_rusage,
    strays: list[resource.struct_rusage],
) -> dict[str, Any]:
    """What the kernel says about the run. `stage` is the last byte of the status pipe."""
    every = [usage, *strays, *watch.clock.reaped]
    return {
        "stage": watch.streams[watch.status][-1:].decode(),
        "status": os.waitstatus_to_exitcode(status),
        "stopped": watch.stopped,
        "cpu_s": max(0.0, sum(map(seconds, every)) - watch.used_before_s),
        "wall_s": wall_s,
        "peak_memory_bytes": max(watch.memory_bytes, *(one.ru_maxrss * 1024 for one in every)),
        "strays": len(every) - 1,
        "starved_s": watch.starved_s,
    }


class Watch:
    """One running program: its streams and clocks, until it ends or breaks a limit."""

    def __init__(self, spare: Spare, job: Job, control: int):
        self.pid, self.job, self.limits, self.control = spare.pid, job, job.limits, control
        self.template, self.clock = spare.template, Clock(spare.pid, spare.template)
        self.pidfd = os.pidfd_open(self.pid)
        readers = spare.readers if job.function else spare.readers[:3]
        self.streams = {fd: bytearray() for fd in readers}
        self.open_streams = list(readers)
        self.out, self.err, self.status, *value = readers
        self.value = value[0] if value else None
        self.stopped: str | None = None
        self.memory_bytes = 0
        self.starved_s = 0.0
        self.started = time.monotonic()
        self.used_before_s = spare.start(job)
        self.tick_s = FIRST_TICK_S
        self.next_check = self.started + min(FIRST_TICK_S, self.limits["cpu_s"])
        self.poll = select.poll()
        for fd in (self.out, self.err, self.pidfd, *value):  # the status pipe is read at the end
            self.poll.register(fd, select.POLLIN)
        self.poll.register(control, select.POLLRDHUP)

    def until_end(self) -> None:
        """Returns when the program's main process has ended (not yet reaped) or `stopped` is set."""
        while self.stopped is None:
            pause_s = max(0.001, self.next_check - time.monotonic())
            ready = dict(self.poll.poll(1000 * pause_s))
            if self.control in ready:
                raise EOFError("the daemon has gone")
            self.collect([fd for fd in ready if fd in self.streams])
            if self.pidfd in ready:
                return
            if time.monotonic() >= self.next_check:
                self.check_clocks()

    def check_clocks(self) -> None:
        """Sets `stopped` when the program's processes have used up a clock or the memory, or are too many."""
        left_some = self.clock.reap()
        below = programs_beside(self.template)
        cpu_s = self.clock.look(below) - self.used_before_s
        now = time.monotonic()
        if cpu_s > self.limits["cpu_s"]:
            self.stopped = "cpu"
        elif now - self.started > self.limits["wall_s"]:
            self.stopped = "wall"
            self.starved_s = max(map(waited_for_cpu_seconds, below), default=0.0)
        elif len(below) > self.limits["processes"]:
            self.stopped = "processes"
        elif held := memory_beyond(below, self.limits["memory_bytes"], self.job.uid):
            self.stopped, self.memory_bytes = "memory", held
        # A program that leaves processes behind, one by one, must not run out of their number meanwhile.
        self.tick_s = FIRST_TICK_S if left_some else min(2 * self.tick_s, LAST_TICK_S)
        self.next_check = now + min(self.tick_s, max(0.0, self.limits["cpu_s"] - cpu_s))

    def collect(self, fds: Iterable[int]) -> bool:
        """Takes over what the streams hold now; False when nothing came. May set `stopped`."""
        came = False
        for fd in fds:
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                continue
            if data:
                came = True
                self.keep(fd, data)
            else:
                self.open_streams.remove(fd)
                if fd != self.status:
                    self.poll.unregister(fd)
        return came

    def keep(self, fd: int, data: bytes) -> None:
        """Adds to what was printed, up to the output limit."""
        kept, limit = self.streams[fd], self.limits["output_bytes"]
        if fd == self.value:
            limit = min(limit, VALUE_BYTES)
        kept += data
        if len(kept) > limit:
            self.stopped = "output"  # comes before a time limit
            del kept[limit:]

    def drain(self) -> None:
        """Reads what is left in the streams once every writer is dead."""
        while self.open_streams and self.collect(list(self.open_streams)):
            pass

    def answer(self) -> bytes:
        """What the dead program gave as its answer, from wherever it had to put it."""
        if self.value is not None:
            return bytes(self.streams[self.value])
        if not self.job.output_file:
            return bytes(self.streams[self.out])
        limit = self.limits["output_bytes"]
        data = read_answer(self.job.folder, self.job.output_file, self.job.uid, limit)
        if len(data) > limit:
            self.stopped = "output"
        return data[:limit]
