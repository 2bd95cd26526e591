"""Programs that take too much, or leave something for the next one; with every backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sandboxing import LIMITS, Sandbox

from rlef_lightning.execution.guarantees import NAMES
from rlef_lightning.types import Verdict

pytestmark = pytest.mark.every_backend


def test_eight_gigabytes_are_refused(sandbox: Sandbox) -> None:
    assert sandbox.run("x = bytearray(8 << 30)").verdict is Verdict.MEMORY_LIMIT


def test_sixteen_times_250_megabytes_are_stopped(sandbox: Sandbox) -> None:
    code = """
import mmap, os, time
for _ in range(16):
    if os.fork() == 0:
        kept = mmap.mmap(-1, 250 << 20)
        for at in range(0, 250 << 20, 4096): kept[at] = 1
        time.sleep(15)
        os._exit(0)
time.sleep(15)
print("held")
"""
    result = sandbox.run(code, limits=replace(LIMITS, memory_bytes=300 << 20))
    assert result.verdict is Verdict.MEMORY_LIMIT
    assert result.stdout == ""


def test_many_files_are_bounded_in_their_sum(sandbox: Sandbox) -> None:
    code = """
written = 0
try:
    for n in range(60):
        with open(f"piece-{n}", "wb") as file: written += file.write(b"x" * (5 << 20))
except OSError as error: print(error.errno)
print(written <= 256 << 20)
"""
    assert sandbox.run(code, expected="28 True").verdict is Verdict.ACCEPTED  # ENOSPC
    assert sandbox.judge("import os\nprint(os.listdir())", [("", "[]")] * 2).passed


def test_many_files_are_bounded_in_number(sandbox: Sandbox) -> None:
    code = """
import os
made = 0
try:
    for made in range(5000): os.close(os.open(str(made), os.O_CREAT | os.O_WRONLY))
except OSError as error: print(error.errno)
print(3000 < made < 4096)
"""
    assert sandbox.run(code, expected="28 True").verdict is Verdict.ACCEPTED
    assert sandbox.judge("import os\nprint(os.listdir())", [("", "[]")] * 2).passed


TALK = """
import ctypes, os, sys, tempfile
word = "test-walls-word"
mode = input()
libc = ctypes.CDLL(None)
places = ["/tmp", "/var/tmp", "/dev/shm", "/run", "..", "../..", tempfile.gettempdir(), "."]
heard = []
for place in places:
    path = os.path.join(place, word)
    try:
        if mode == "say": open(path, "w").write(word)
        else: heard.append(open(path).read())
    except OSError: pass
try:
    if mode == "say": os.putenv("WORD", word); os.umask(0); os.nice(1)
    elif "WORD" in os.environ: heard.append("environment")
except OSError: pass
queue = libc.msgget(0x7a5b1d, 0o1666 if mode == "say" else 0)
if mode != "say" and queue != -1: heard.append("queue")
print("said" if mode == "say" else heard)
"""


def test_runs_cannot_leave_each_other_a_word(sandbox: Sandbox) -> None:
    assert sandbox.judge(TALK, [("say", "said")] * 4).passed
    report = sandbox.judge(TALK, [("listen", "[]")] * 4)
    assert report.passed, report


def test_shared_memory_of_the_library_is_refused(sandbox: Sandbox) -> None:
    """What it costs: multiprocessing's locks and shared memory live in /dev/shm."""
    code = """
from multiprocessing import shared_memory
try: shared_memory.SharedMemory("test-walls", create=True, size=4096)
except OSError: print("refused")
"""
    assert sandbox.run(code, expected="refused").verdict is Verdict.ACCEPTED
    assert not Path("/dev/shm/test-walls").exists()


def test_one_run_cannot_change_the_stdin_of_another(sandbox: Sandbox) -> None:
    code = """
import mmap, os
for act in (lambda: os.pwrite(0, b"9", 0), lambda: os.ftruncate(0, 0),
            lambda: mmap.mmap(0, 1, mmap.MAP_SHARED).__setitem__(0, 57),
            lambda: os.pwrite(os.open("/dev/stdin", os.O_RDWR), b"9", 0)):
    try: act()
    except (OSError, ValueError): pass
print(input())
"""
    assert sandbox.judge(code, [("7\n", "7\n")] * 6).passed


def test_the_ready_message_reports_every_guarantee(shared: Sandbox) -> None:
    proof = shared.executor.proof
    assert proof is not None
    assert tuple(finding.name for finding in proof.findings) == NAMES
    assert not {gap.name for gap in proof.gaps} & set(shared.executor.promises)
    assert proof.seconds > 0
