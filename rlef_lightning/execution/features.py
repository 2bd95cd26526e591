"""What this machine's kernel offers for walls, to this user. For people; no decision is made on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from rlef_lightning.execution.cgroups import Group
from rlef_lightning.execution.inside import landlock, namespaces, seccomp
from rlef_lightning.execution.inside.kernel import libc


def features() -> dict[str, str]:
    """Name of a feature -> what was found, in words."""
    return {
        "kernel": f"{platform.release()} on {platform.machine()}",
        "user": "root" if os.geteuid() == 0 else f"an ordinary one ({os.geteuid()})",
        "Landlock": _landlock(),
        "filters of system calls": _filters(),
        "user name spaces": _user_namespaces(),
        "control groups": _control_groups(),
    }


def _landlock() -> str:
    try:
        return f"version {landlock.version()}"
    except OSError as error:
        return f"none ({error.strerror})"


def _filters() -> str:
    try:
        seccomp.program_filter()
    except OSError as error:
        return f"none ({error.strerror})"
    return "seccomp" if Path("/proc/sys/kernel/seccomp/actions_avail").exists() else "none (no seccomp)"


def _user_namespaces() -> str:
    """Tried in a process of its own, because there is no way back out of one."""
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.unshare(namespaces.NEW_USER) == 0 else 1)
    _, status = os.waitpid(child, 0)
    return "allowed" if status == 0 else "refused"


def _control_groups() -> str:
    version = "version 2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "version 1"
    if not Path("/proc/self/cgroup").exists():
        return "none"
    group = Group.make(0)
    if group is None:
        return f"{version}, not open to this user"
    group.remove()
    return f"{version}, open to this user"
