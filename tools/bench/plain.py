"""The same program without an executor: one process, or one nsjail, for each run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SHOWN = ("/usr", "/lib", "/lib64", "/bin")
"""What a jail shows of the machine, next to the interpreter's own folders."""

SYSTEM_PYTHON = "/usr/bin/python3"


def python_command(code: str, *options: str, python: str = sys.executable) -> list[str]:
    """A fresh interpreter; by default the one of the executor's programs."""
    return [python, *options, "-c", code]


def base_python() -> str:
    """The interpreter that a virtual environment was made of; outside of one, our own.

    It starts faster, as it looks for no pyvenv.cfg and reads no site-packages of the environment.
    """
    return getattr(sys, "_base_executable", None) or sys.executable


def system_python() -> str | None:
    """The distribution's interpreter, which may start faster than one that was built by hand; None: none."""
    return SYSTEM_PYTHON if Path(SYSTEM_PYTHON).exists() else None


def nsjail_command(code: str) -> list[str] | None:
    """One jail around one fresh interpreter; None without nsjail on PATH.

    nsjail's own defaults, which are new name spaces of every kind, with the interpreter's files shown
    read-only: neither a system call filter nor a control group, which would make it slower still.
    """
    nsjail = shutil.which("nsjail")
    if nsjail is None:
        return None
    folders = {*SHOWN, sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)}
    shown = [part for folder in sorted(folders) if Path(folder).exists() for part in ("-R", folder)]
    return [nsjail, "-Mo", "-Q", "--rlimit_as", "max", *shown, "--", *python_command(code)]


def run_once(command: Sequence[str], stdin: bytes, expected: bytes) -> None:
    """Starts the command, waits for it and checks what it printed; ends the program when it is wrong."""
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if done.returncode != 0 or done.stdout != expected:
        sys.exit(f"{command[0]} ended with {done.returncode}: {done.stdout!r} {done.stderr[-1000:]!r}")


def runs_per_s(command: Sequence[str], stdin: bytes, expected: bytes, *, runs: int, at_once: int) -> float:
    """`runs` starts of the command, `at_once` of them at the same time."""
    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        for job in [threads.submit(run_once, command, stdin, expected) for _ in range(runs)]:
            job.result()
    return runs / (time.perf_counter() - start)
