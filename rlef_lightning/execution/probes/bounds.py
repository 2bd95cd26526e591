"""Probes of what a run may use: each uses more. Dearer than the others; spread over the workers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rlef_lightning.execution.judge import ran_out_of_memory
from rlef_lightning.execution.probes.probe import LIMITS, Outcome, Probe, ProbeFailedError
from rlef_lightning.execution.settings import Settings
from rlef_lightning.execution.worker import room_beside

_SHORT_CPU = replace(LIMITS, cpu_s=0.02)
_SHORT_WALL = replace(LIMITS, wall_s=0.04)
_MUCH_MEMORY = replace(LIMITS, memory_bytes=4 << 30)
"""Nothing of it is used: stacks of threads are address space, whose end would hide a missing limit."""
_LITTLE_OUTPUT = replace(LIMITS, output_bytes=64 << 10)


def _judge_stop(outcome: Outcome, *, by: str, what: str) -> str:
    """For a program that would go on for long: only the limit may have ended it."""
    return "" if outcome.facts.stopped == by else what


_OUTPUT_CODE = "while True: print('x' * 999)"


def _judge_output(outcome: Outcome) -> str:
    kept = len(outcome.facts.stdout)
    if kept > _LITTLE_OUTPUT.output_bytes:
        return f"print {kept} bytes where {_LITTLE_OUTPUT.output_bytes} are allowed"
    return _judge_stop(outcome, by="output", what="go on printing beyond its limit")


_MEMORY_CODE = f"""
kept = bytearray({LIMITS.memory_bytes + (64 << 20)})
print("allocated")
"""


def _judge_memory(outcome: Outcome) -> str:
    if b"allocated" in outcome.facts.stdout:
        return f"allocate more than its {LIMITS.memory_bytes} bytes"
    if not ran_out_of_memory(outcome.facts, LIMITS):
        raise ProbeFailedError(f"status {outcome.facts.status}, which is no lack of memory")
    return ""


_TOGETHER = """
import mmap, os, select, time
ready, told = os.pipe()
for _ in range(COUNT):
    if os.fork() == 0:
        kept = mmap.mmap(-1, SHARE)
        try: kept.madvise(mmap.MADV_HUGEPAGE)  # cheaper, where the kernel has it
        except OSError: pass
        for at in range(0, SHARE, mmap.PAGESIZE): kept[at] = 1
        os.write(told, b"1")
        time.sleep(20)
        os._exit(0)
held, together_s = 0, 0.0
while together_s < 0.15 and os.waitpid(-1, os.WNOHANG) == (0, 0):
    if select.select([ready], [], [], 0.01)[0]: held += len(os.read(ready, 1))
    elif held == COUNT: together_s += 0.01
print("held" if together_s else "one of them has ended")
"""
_SHARE = 32 << 20
_MOST_SHARES = 60


def _total_memory(settings: Settings) -> Probe:
    """Children that are each within the limit, and together beyond it and all room that a group leaves."""
    memory = (192 << 20) if settings.preload_numpy else (64 << 20)
    count = min(_MOST_SHARES, (memory + room_beside(settings)) // _SHARE + 2)
    limits = replace(LIMITS, memory_bytes=memory, processes=count + 4)
    code = _TOGETHER.replace("SHARE", str(_SHARE)).replace("COUNT", str(count))

    def judge(outcome: Outcome) -> str:
        if b"held" in outcome.facts.stdout:
            return f"hold {count * _SHARE} bytes in {count} processes where {memory} are allowed"
        if not ran_out_of_memory(outcome.facts, limits) and outcome.facts.stopped != "memory":
            raise ProbeFailedError(f"status {outcome.facts.status}, stopped by {outcome.facts.stopped}")
        return ""

    return Probe(guarantee="total_memory", code=code, judge=judge, limits=limits)


_FORKS = f"""
MOST = {LIMITS.processes}
import os, time
born = 1
try:
    while born < 40:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        born += 1
except OSError:
    pass
if born > MOST: time.sleep(0.12)  # until they have been counted
print(born)
"""
_THREADS = f"""
MOST = {LIMITS.processes}
import threading, time
done, born = threading.Event(), 1
try:
    while born < 40:
        threading.Thread(target=done.wait, daemon=True).start()
        born += 1
except RuntimeError:
    pass
if born > MOST: time.sleep(0.12)  # until they have been counted
done.set()
print(born)
"""


def _judge_count(outcome: Outcome, *, what: str) -> str:
    if outcome.facts.stopped == "processes":
        return ""
    born = int(outcome.said)
    return "" if born <= LIMITS.processes else f"have {born} {what} where {LIMITS.processes} are allowed"


_FILE_SIZE_CODE = """
import os
with open("large", "wb", buffering=0) as file:
    try:
        while os.stat("large").st_size < 4 << 20: file.write(b"x" * (256 << 10))
    except OSError:
        pass
print(os.stat("large").st_size)
"""


def _judge_file_size(outcome: Outcome) -> str:
    size = int(outcome.said)
    return "" if size <= LIMITS.file_bytes else f"write a file beyond its limit of {LIMITS.file_bytes} bytes"


_DISK_CODE = """
import ctypes, json, os
fd = os.open("large", os.O_CREAT | os.O_RDWR, 0o600)
taken = ctypes.CDLL(None).fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(SIZE))
print(json.dumps({"taken": taken == 0, "files": os.statvfs(".").f_files}))
"""


def _disk(settings: Settings) -> Probe:
    """Asks for more than the whole at once, which costs nothing where it is refused."""
    size = settings.scratch_bytes + (1 << 20)

    def judge(outcome: Outcome) -> str:
        said = outcome.said
        files = int(said["files"])
        too_many = files == 0 or files > settings.scratch_files
        found = [f"fill {size} bytes where {settings.scratch_bytes} are allowed"] if said["taken"] else []
        found += [f"make more than {settings.scratch_files} files"] if too_many else []
        return ", ".join(found)

    limits = replace(LIMITS, file_bytes=2 * size)
    return Probe(guarantee="disk", code=_DISK_CODE.replace("SIZE", str(size)), judge=judge, limits=limits)


_LEAVES = """
import os, signal, time
ready, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    for number in (1, 2, 3, 15): signal.signal(number, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.write(told, b"1")
            time.sleep(20)
            os._exit(0)
    os._exit(0)
for _ in range(3): os.read(ready, 1)
open("left", "w").close()
print(1)
"""
_NOTES = """
import os, struct
entries = (struct.pack("<HHI", tag, 0, 0xFFFFFFFF) for tag in (1, 4, 32))
nobody = struct.pack("<I", 2) + b"".join(entries)
for path in (".", ".."):
    for note in (
        lambda: os.setxattr(path, "user.note", b"1"),
        lambda: os.setxattr(path, "system.posix_acl_default", nobody),
        lambda: os.utime(path, (7, 7)),
        lambda: os.chmod(path, 0o751),
    ):
        try: note()
        except OSError: pass
print(1)
"""
_LOOKS = """
import json, os
found = ["files"] if os.listdir(".") else []
for path in (".", ".."):
    kept = os.stat(path)
    found += ["attributes"] if {"user.note", "system.posix_acl_default"} & set(os.listxattr(path)) else []
    found += ["times"] if 7 in (kept.st_atime, kept.st_mtime) else []
    found += ["modes"] if kept.st_mode & 0o777 == 0o751 else []
print(json.dumps(found))
"""


def _judge_survivors(outcome: Outcome) -> str:
    if outcome.said != 1:
        raise ProbeFailedError("it did not say that it has left a process")
    return "leave a process that lives on" if outcome.survivors else ""


def _judge_notes(outcome: Outcome) -> str:
    if outcome.said != 1:
        raise ProbeFailedError("it did not say that it has left notes")
    return ""


def _judge_looks(outcome: Outcome) -> str:
    return f"find {' and '.join(outcome.listed)} of an earlier run" if outcome.listed else ""


def bounds(settings: Settings) -> tuple[Probe, ...]:
    """Probes of one guarantee follow each other: those of `survivors` must run in the same worker."""
    looks = Probe(guarantee="survivors", code=_LOOKS, judge=_judge_looks)
    too_long = partial(_judge_stop, by="cpu", what="use more CPU time than its limit")
    too_slow = partial(_judge_stop, by="wall", what="sleep beyond its limit")
    return (
        Probe(guarantee="time", code="while True: pass", judge=too_long, limits=_SHORT_CPU),
        Probe(guarantee="time", code="import time\ntime.sleep(20)", judge=too_slow, limits=_SHORT_WALL),
        Probe(guarantee="output", code=_OUTPUT_CODE, judge=_judge_output, limits=_LITTLE_OUTPUT),
        Probe(guarantee="memory", code=_MEMORY_CODE, judge=_judge_memory),
        _total_memory(settings),
        Probe(guarantee="process_count", code=_FORKS, judge=partial(_judge_count, what="processes")),
        Probe(
            guarantee="process_count", code=_THREADS, judge=partial(_judge_count, what="threads"),
            limits=_MUCH_MEMORY,
        ),
        Probe(guarantee="file_size", code=_FILE_SIZE_CODE, judge=_judge_file_size),
        _disk(settings),
        Probe(guarantee="survivors", code=_LEAVES, judge=_judge_survivors, leaves=True),
        looks,
        Probe(guarantee="survivors", code=_NOTES, judge=_judge_notes),
        looks,
    )  # fmt: skip
