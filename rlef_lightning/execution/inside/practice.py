"""A program run once before all others -> the pages that programs write (see pages.py)."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

from .memory import as_user
from .pages import Range, written_pages
from .program import REHEARSAL, Job
from .spare import Spare
from .template import Template
from .tree import kill_and_reap
from .walls import Walls

PRACTICE = f"""{REHEARSAL}
print(sum(map(int, input().split())))
import os, signal, sys, types
sys.stderr = types.SimpleNamespace(closed=False, flush=lambda: (os.write(2, b"."), signal.pause()))
"""
"""Stops at its end, when its streams are flushed, and can be looked at."""
_LIMITS = {"cpu_s": 10.0, "file_bytes": 1 << 20, "processes": 1, "memory_bytes": 1 << 30}
_PATIENCE_MS = 5000


def practise(folder: str, walls: Walls) -> list[Range]:
    """What a program has written by its end; empty where that cannot be found out, or not in time.

    It is a process like a program's, from a template like theirs, behind the same walls.
    """
    job = Job({"limits": _LIMITS}, PRACTICE.encode(), b"3 4\n", folder, walls)
    try:
        with _waiting_program(folder, walls) as spare:
            spare.start(job)
            err, poll = spare.readers[1], select.poll()
            poll.register(err, select.POLLIN)
            if not poll.poll(_PATIENCE_MS) or os.read(err, 2) != b".":
                return []
            with as_user(walls.uid):
                return written_pages(spare.pid)
    except OSError:
        return []


@contextlib.contextmanager
def _waiting_program(folder: str, walls: Walls) -> Iterator[Spare]:
    """A program's process from a template of its own; neither is left afterwards. Raises OSError."""
    template = Template(folder, walls)
    try:
        spare = _made(Spare(template, walls))
        try:
            yield spare
        finally:
            kill_and_reap(spare.pid, template.pid)
            for fd in spare.readers:
                os.close(fd)
    finally:
        template.end()


def _made(spare: Spare) -> Spare:
    """The same, once there is a process; raises OSError."""
    try:
        _ = spare.pid
    except OSError:
        spare.discard()
        raise
    return spare
