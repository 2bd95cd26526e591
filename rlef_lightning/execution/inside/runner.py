"""job over the control socket -> one program in a fork -> facts back. One job at a time.

The trusted warm process, process 1 of a jail where the backend has one. This folder needs the standard
library only, so that a jail shows it nothing else; see `link.py` for its command line. It does not know
expected outputs and does not judge: it says what the kernel said (wait status, clocks, memory) and
hands back the bytes that the program printed. The program's process never holds the control socket.

    <- {"limits": {...}} + code + stdin, and what else `Job` takes
    -> the facts (see `watch.facts`) + the answer (stdout, an output file or a function's value) + stderr
    -> {"clean": true}, once at the start, and when the facts did not say so: the scratch folder is empty,
       the next job may come
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import resource
import signal
import sys
import threading
from typing import Any

from . import namespaces
from .folders import is_empty, keep_only, new_folder, restore
from .kernel import (
    OPEN_FILES,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    empty_stdin,
    lower,
    prctl,
)
from .pages import hand_down_code, open_ring
from .practice import practise
from .program import JOB, Job, keep_low_descriptors, replace_streams
from .spare import Spare
from .template import Template
from .tree import kill_and_reap
from .walls import Walls
from .watch import READ_BYTES, run

# What programs import most. Each further module makes every fork dearer by its mappings, some by 0.2 ms;
# a program that wants a module which is not here pays for its import alone: 1.5 ms for datetime, which not
# one of a thousand solutions to CodeContests, HumanEval and MBPP wants.
PRELOADED = """
    __future__ abc bisect collections collections.abc copy decimal enum fractions functools
    heapq io itertools json linecache math operator os random re string sys threading time traceback types
    typing
"""
PROGRAM_ENVIRONMENT = {
    "PATH", "LANG", "HOME", "TMPDIR", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
}  # fmt: skip
THREAD_STACK_BYTES = 8 << 20


def main() -> None:
    """Entry point; arguments: the folder above this one, and JSON.

    The JSON names control_fd, scratch (a folder), packages (folders), namespaces (whether to make some),
    and what `Walls` needs.
    """
    sys.path.remove(sys.argv[1])  # programs shall not import from there
    options = json.loads(sys.argv[2])
    prctl(PR_SET_NO_NEW_PRIVS, 1)  # programs inherit it
    control = fcntl.fcntl(options["control_fd"], fcntl.F_DUPFD_CLOEXEC, JOB + 1)
    os.close(options["control_fd"])
    keep_low_descriptors()
    ring = open_ring()
    neighbours, missing = namespaces.enter() if options["namespaces"] else (None, "")
    if neighbours is not None:
        options["neighbours"] = neighbours
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by a parent, it would hide how programs ended
    lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, this process and its programs go before the trainer
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        raise RuntimeError("this kernel does not list /proc/<pid>/task/<tid>/children")
    prctl(PR_SET_DUMPABLE, 0)  # a program of the same user could list its descriptors, or trace it
    warm_up(options)
    folder = os.path.join(options["scratch"], "disk", "run")
    walls = Walls(options, folder)
    walls.missing += [missing] if missing else []
    prepare_folder(folder, walls)
    pages = practise(folder, walls) if ring is not None else []
    prepare_folder(folder, walls)  # no program finds the folder of another, not even of this one
    template = Template(folder, walls, ring, pages)
    send(control, {"clean": True, "missing": walls.missing, "own_disk": walls.own_disk})
    with contextlib.suppress(EOFError, ConnectionError):
        serve(control, folder, walls, template)


def serve(control: int, folder: str, walls: Walls, template: Template) -> None:
    """Answers jobs until the daemon closes the socket."""
    while True:
        spare = Spare(template, walls)
        try:
            header, (code, stdin, *contents) = receive(control)
        except BaseException:
            kill_and_reap(spare.pid, spare.template)
            raise
        job = Job(header, code, stdin, folder, walls, contents)
        result, stdout, stderr = run(job, control, spare)
        tidy = is_empty(folder)
        if tidy:  # as most programs leave it: one message will do
            prepare_folder(folder, walls)
        send(control, {**result, "clean": tidy}, stdout, stderr)
        if not tidy:
            prepare_folder(folder, walls)  # may take long, which must not count against the run
            send(control, {"clean": True})


def prepare_folder(folder: str, walls: Walls) -> None:
    """Makes a new scratch folder, and lets programs into it. Nothing else that they can change survives."""
    if walls.uid is None:
        for path in folders_above(folder):
            restore(path)
        if walls.own_disk:
            keep_only(folder)  # without Landlock, a program of the same user may write beside it
    new_folder(folder, walls.uid)
    walls.surround()


def folders_above(folder: str) -> list[str]:
    """The file system's, the worker's and the daemon's folder, from the top."""
    above = [folder]
    for _ in range(3):
        above.insert(0, os.path.dirname(above[0]))
    return above[:-1]


def warm_up(options: dict[str, Any]) -> None:
    """Imports what programs import, builds the built-ins of `site`, and freezes the heap.

    Whatever can be the same for all programs is done here, not once for each.
    """
    for name in PRELOADED.split():
        importlib.import_module(name)
    site = importlib.import_module("_sitebuiltins")
    for name in ("exit", "quit"):
        setattr(builtins, name, site.Quitter(name, "Ctrl-D (i.e. EOF)"))
    prepare_streams()
    for name in set(os.environ) - PROGRAM_ENVIRONMENT:
        del os.environ[name]  # what the jail or the shell has added, and what was meant for the runner
    random.seed(0)  # the same program gets the same verdict each time
    if options["packages"]:
        sys.path += options["packages"]
        importlib.import_module("numpy.random").seed(0)  # as above, for its global functions
    hand_down_code()
    threading.stack_size(THREAD_STACK_BYTES)  # the default would follow the main thread's big stack
    gc.collect()
    gc.disable()
    gc.freeze()


def prepare_streams() -> None:
    """Makes the programs' text streams on descriptors of the kinds that they will have."""
    (writable, stdin), (reader, writer) = empty_stdin(), os.pipe()
    kept = [os.dup(fd) for fd in range(3)]
    for target, fd in enumerate((stdin, writer, writer)):
        os.dup2(fd, target)
    replace_streams()
    for target, fd in enumerate(kept):
        os.dup2(fd, target)
    for fd in (*kept, writable, stdin, reader, writer):
        os.close(fd)


def receive(control: int) -> tuple[dict[str, Any], list[bytes]]:
    """One frame: a length, that many bytes of JSON, then the blobs whose lengths the JSON names."""
    length = int.from_bytes(receive_exactly(control, 4), "big")
    header = json.loads(receive_exactly(control, length))
    return header, [receive_exactly(control, size) for size in header["blobs"]]


def receive_exactly(control: int, size: int) -> bytes:
    """That many bytes; raises EOFError when the daemon has closed its end."""
    data = bytearray()
    while len(data) < size:
        part = os.read(control, min(size - len(data), READ_BYTES))
        if not part:
            raise EOFError("the daemon has gone")
        data += part
    return bytes(data)


def send(control: int, header: dict[str, Any], *blobs: bytes) -> None:
    """The counterpart of `receive`."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    view = memoryview(b"".join((len(text).to_bytes(4, "big"), text, *blobs)))
    while view:
        view = view[os.write(control, view) :]
