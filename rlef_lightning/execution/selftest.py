"""worker -> proof that its walls stand, or ExecutorError. Run once per worker at the daemon's start.

Checks only what the backend promises; never lets a run begin behind weaker walls than configured.
"""

from __future__ import annotations

import ast
from typing import Any

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.worker import Worker
from rlef_lightning.types import Limits

_PROBE = b"""
import os, resource, stat, sys
import wave, xmlrpc.client  # not loaded before: the library must be readable
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print({
    "uids": os.getresuid(),
    "groups": os.getgroups() if os.getuid() else [],
    "no_new_privs": int(status["NoNewPrivs"]),
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
    "stdin_is_file": stat.S_ISREG(os.fstat(0).st_mode),
    "stdin": sys.stdin.read(),
    "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
    "capabilities": int(status["CapEff"], 16) if os.getuid() else 0,
    "environment": sorted(os.environ),
})
"""
_ENVIRONMENT = [
    "HOME",
    "LANG",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PATH",
    "TMPDIR",
]
_LIMITS = Limits(cpu_s=10.0, wall_s=30.0, memory_bytes=512 << 20)


async def prove_walls(worker: Worker) -> None:
    """Runs a probe as a program would run; raises ExecutorError that names what is missing."""
    facts = await worker.run(_PROBE, b"canary\n", _LIMITS)
    if facts.status != 0:
        raise ExecutorError(
            f"the sandbox's own probe failed with status {facts.status}, stopped by {facts.stopped}: "
            f"{facts.stderr.decode(errors='replace')[-1000:]}"
        )
    found = ast.literal_eval(facts.stdout.decode())
    for name, wanted in _wanted(worker.uid).items():
        if found[name] != wanted:
            raise ExecutorError(
                f"the sandbox does not keep its promise on {name}: {found[name]}, not {wanted}"
            )


def _wanted(uid: int | None) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "groups": [], "no_new_privs": 1, "fds": [0, 1, 2], "stdin_is_file": True, "stdin": "canary\n",
        "memory": _LIMITS.memory_bytes, "capabilities": 0, "environment": _ENVIRONMENT,
    }  # fmt: skip
    return wanted if uid is None else {**wanted, "uids": (uid, uid, uid)}
