"""What the kernel shall refuse to a program, put up by its own process before its first statement."""

from __future__ import annotations

import math
import os
import resource
import signal
from typing import Any

from .kernel import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, lower, prctl


def confine(limits: dict[str, Any], uid: int | None) -> None:
    """Everything the kernel shall refuse to this process from here on; the hook for further walls."""
    cpu_s = math.ceil(limits["cpu_s"]) + 1  # the backup: the runner's own clock is finer
    lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    lower(resource.RLIMIT_FSIZE, limits["file_bytes"])
    lower(resource.RLIMIT_CORE, 0)
    if uid is not None:
        lower(resource.RLIMIT_NPROC, limits["processes"])  # counted per user: needs a user of its own
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_DUMPABLE, 1)  # else /proc/self, and with it /dev/stdin, belongs to root
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user would clear it
    lower(resource.RLIMIT_AS, limits["memory_bytes"])
