"""environment of a process -> the name under which the ranks of its job, on this node, share one daemon.

Knows the variables of torchrun, of Lightning's launchers and of SLURM. Reads them, changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rlef_lightning.execution.settings import Settings

PREFIX = "rlef-node-"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def job_name(environment: Mapping[str, str]) -> str | None:
    """What all ranks of one job have in common, or None when this process is no rank or the only one.

    torchrun and Lightning: LOCAL_RANK, the number of ranks, and MASTER_PORT (with MASTER_ADDR and torchrun's
    run id); SLURM without them: the job and its step.

    Example: job_name({"LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "4711"}) == "ranks::4711:"
    """
    if "LOCAL_RANK" in environment and environment.get("MASTER_PORT"):
        if _number(environment, "LOCAL_WORLD_SIZE", "WORLD_SIZE") < 2:
            return None
        return _joined(environment, "ranks", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    if {"SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_ID"} <= environment.keys():  # started by srun
        if _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") < 2:
            return None
        return _joined(environment, "slurm", "SLURM_JOB_ID", "SLURM_STEP_ID")
    return None


def _number(environment: Mapping[str, str], *names: str) -> int:
    """The value of the first variable that is there; 0 when none is, or it is no number."""
    text = next((environment[name] for name in names if name in environment), "")
    return int(text) if text.isdecimal() else 0


def _joined(environment: Mapping[str, str], kind: str, *names: str) -> str:
    return ":".join((kind, *(environment.get(name, "") for name in names)))


def meeting_folder(name: str, settings: Settings) -> str:
    """The folder in which processes with this name and these settings meet.

    Same machine, user, program and settings, same view of files and process ids (containers on one machine,
    and nodes of a cluster, may have a folder in common), or else another folder.
    """
    alike = replace(settings, owner_pid=0, scratch="")
    namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "mnt")]
    parts = [name, alike.to_json(), sys.executable, str(Path(__file__).resolve()), *namespaces]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return os.path.join(runtime_folder(), f"{own_prefix()}{digest}")


def own_prefix() -> str:
    """How the names of this user's folders begin on this machine, until it is booted again.

    Sockets of another machine's processes lie in a shared folder as well, and look dead from here.
    """
    try:
        machine = _BOOT_ID.read_text()
    except OSError:
        machine = platform.node()
    return f"{PREFIX}{os.geteuid()}-{hashlib.sha256(machine.encode()).hexdigest()[:12]}-"


def runtime_folder() -> str:
    """XDG_RUNTIME_DIR where it exists and is this user's own (on compute nodes it often does not), else the
    folder for temporary files."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        own = os.path.isabs(folder) and os.stat(folder).st_uid == os.geteuid()
    except OSError:
        own = False
    return folder if own else tempfile.gettempdir()
