"""descriptors -> a new process behind them: forks programs' processes, and never sees a program.

The runner handles code, inputs and outputs, and a copy of it would hold what is left of them in memory that
was freed. So programs are copies of this process instead, which is itself a copy of the runner from before
its first job. It does nothing between two forks, so the kernel has few pages to copy for it, and none for
the runner. The walls that need not know the program it puts up around itself: every copy inherits them.

It shares the runner's table of descriptors. The runner is its copies' parent, and waits for them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import struct
from collections.abc import Sequence
from typing import NoReturn

from .clone import CLONE_FILES, CLONE_PARENT, clone
from .kernel import PR_SET_PDEATHSIG, prctl
from .pages import Range, pin
from .program import fresh_interpreter, program_process
from .walls import Walls

_REQUEST = struct.Struct("7i")
_NEWBORN = struct.Struct("i")


class Template:
    """The process, as the runner sees it. To be made before the first job.

    `pages`: those that its copies shall have from the start, pinned by `ring`.
    """

    def __init__(self, folder: str, walls: Walls, ring: int | None = None, pages: Sequence[Range] = ()):
        self._requests, self._ask = os.pipe2(os.O_CLOEXEC)
        self._told, self._tell = os.pipe2(os.O_CLOEXEC)
        self.pid = clone(CLONE_FILES, signal.SIGCHLD)
        if self.pid == 0:
            self._live(folder, walls, ring, pages)
        self._pidfd = os.pidfd_open(self.pid)
        self._either = select.poll()
        for fd in (self._told, self._pidfd):
            self._either.register(fd, select.POLLIN)

    def fork(self, fds: Sequence[int], rules: int) -> None:
        """Asks for a process; `newborn` tells its id. The descriptors stay open in the runner until then."""
        os.write(self._ask, _REQUEST.pack(*fds, rules))

    def newborn(self) -> int:
        """Id of the process that was asked for; raises ChildProcessError when the template has died."""
        if not any(fd == self._told for fd, _ in self._either.poll()):
            raise ChildProcessError("the process from which programs' processes are copied has died")
        (pid,) = _NEWBORN.unpack(os.read(self._told, _NEWBORN.size))
        if pid < 0:
            raise OSError(-pid, f"a program's process cannot be forked: {os.strerror(-pid)}")
        return int(pid)

    def end(self) -> None:
        """Ends the process, which must have no live copy, and closes its pipes."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has died, and been reaped
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for fd in (self._requests, self._ask, self._told, self._tell, self._pidfd):
            os.close(fd)

    def _live(self, folder: str, walls: Walls, ring: int | None, pages: Sequence[Range]) -> NoReturn:
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            pinned = pin(ring, pages)  # programs, and so their filter, have no use for io_uring
            walls.share()
            fresh_interpreter(folder)
            gc.freeze()  # else a program's first collection would depend on the number of pages
            while True:
                *fds, rules = _REQUEST.unpack(os.read(self._requests, _REQUEST.size))
                try:
                    pid = clone(CLONE_PARENT, 0)
                except OSError as error:
                    pid = -(error.errno or 1)
                if pid == 0:
                    program_process(folder, walls, fds, rules, warm=pinned)
                os.write(self._tell, _NEWBORN.pack(pid))
        finally:
            os._exit(1)
