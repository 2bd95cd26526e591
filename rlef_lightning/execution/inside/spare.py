"""A program's process before its program is known: forked while nothing runs, behind its walls, waiting.

The fork, the copying of pages and the walls cost more than most programs, and none of them needs the job.
At most one exists, between the end of one run and the next job; while a program runs there is none, so that
whatever else is below the runner then is the program's. It has no clock: a run's start when it gets its job.
"""

from __future__ import annotations

import contextlib
import os
from functools import cached_property

from .kernel import cpu_seconds, empty_stdin, fill_and_seal, output_pipe, pipe
from .program import Job
from .template import Template
from .walls import Walls


class Spare:
    """A process that waits for a job, or is about to."""

    def __init__(self, template: Template, walls: Walls):
        pipes = (output_pipe(walls.uid), output_pipe(walls.uid), pipe(), pipe())
        self.readers, writers = zip(*pipes, strict=True)
        """Of stdout, stderr, status and value."""
        self._stdin, readable = empty_stdin()
        letter, self._job = os.pipe2(os.O_CLOEXEC)
        self._theirs = (readable, *writers, letter)
        self._template = template
        self.template = template.pid
        """Process id of what it is copied from."""
        template.fork(self._theirs, walls.rules)

    @cached_property
    def pid(self) -> int:
        """Not reaped before its run is over. Raises OSError when there is no such process."""
        pid = self._template.newborn()
        for fd in self._theirs:
            os.close(fd)
        return pid

    def discard(self) -> None:
        """Closes all its pipes; for one whose process could not be made."""
        for fd in (*self.readers, *self._theirs, self._stdin, self._job):
            os.close(fd)

    def start(self, job: Job) -> float:
        """Gives it its job, once; returns the CPU seconds that it has used until then.

        One that has died meanwhile is found out as a program would be that ended at once.
        """
        fill_and_seal(self._stdin, job.stdin)
        os.close(self._stdin)
        used_s = cpu_seconds(self.pid)
        view = memoryview(job.letter())
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(self._job, view) :]
        os.close(self._job)
        return used_s
