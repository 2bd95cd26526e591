"""A copy of a process has the pages that it will write from the start, where the machine allows that."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sandboxing import Sandbox

import rlef_lightning.execution
from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.execution.inside.pages import Range, open_ring, pin

EXECUTION = str(Path(rlef_lightning.execution.__file__).parent)
"""From here a runner loads its part."""

COPY = """
import mmap, os, signal, sys
from rlef_lightning.execution.inside.clone import clone
from rlef_lightning.execution.inside.pages import Range, hand_down_code, open_ring, pin, written_pages

memory = mmap.mmap(-1, 8 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(8):
    memory[page * mmap.PAGESIZE] = 1
import ctypes
first = ctypes.addressof(ctypes.c_char.from_buffer(memory)) // mmap.PAGESIZE

def own(pid):
    "Which of the eight a process has for itself."
    return [
        page for page in range(8) if any(one.start <= first + page < one.stop for one in written_pages(pid))
    ]

def in_copy(act):
    "What a copy that has done something has for itself, seen from outside while it lives."
    reader, writer = os.pipe()
    pid = clone(0, signal.SIGCHLD)
    if pid == 0:
        act()
        os.write(writer, b".")
        signal.pause()
    os.read(reader, 1)
    found = own(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return found

def write(*pages):
    for page in pages:
        memory[page * mmap.PAGESIZE] = 2

def pinned(*pages):
    return pin(open_ring(), [Range(first + page, first + page + 1, False) for page in pages])
"""


def in_a_process(code: str) -> str:
    """What it prints. The copies are made of a process with a single thread."""
    done = subprocess.run(
        [sys.executable, "-c", COPY + code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def pinning() -> None:
    """Skips where the machine does not allow it: io_uring may be forbidden, or locked memory used up."""
    if in_a_process("print(pinned(0))") != "True":
        pytest.skip("this machine pins no pages")


def test_the_pages_that_a_copy_has_written_are_found() -> None:
    assert in_a_process("print(in_copy(lambda: write(1, 5)))") == "[1, 5]"


def test_a_copy_begins_with_pinned_pages_of_its_own(pinning: None) -> None:
    assert in_a_process("assert pinned(2, 3, 6); print(in_copy(lambda: None))") == "[2, 3, 6]"


def test_what_a_copy_writes_stays_its_own(pinning: None) -> None:
    assert in_a_process("assert pinned(2); in_copy(lambda: write(2, 3)); print(memory[2 * 4096])") == "1"


def test_without_a_ring_nothing_is_pinned() -> None:
    pages = [Range(1, 2, False)]
    assert not pin(None, pages)
    assert not pin(os.sysconf("SC_OPEN_MAX") - 1, pages)  # no such descriptor


def test_no_pages_need_no_pinning() -> None:
    ring = open_ring()
    assert not pin(ring, [])
    if ring is not None:
        os.close(ring)


def test_a_copy_begins_with_the_code_that_was_read() -> None:
    """The kernel counts it as the copy's at once, not when the copy reads it for the first time."""
    code = """
import re
def code_kib():
    "Resident KiB of code in the copy, by the kernel's list of mappings."
    reader, writer = os.pipe()
    pid = clone(0, signal.SIGCHLD)
    if pid == 0:
        signal.pause()
    with open(f"/proc/{pid}/smaps") as file:
        found = re.findall(r" r-xp .*\\n(?:.*\\n)*?Rss: +([0-9]+) kB", file.read())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return sum(map(int, found))
before = code_kib()
hand_down_code()
print(code_kib() - before)
"""
    assert int(in_a_process(code)) > 500


CAP_IPC_LOCK = 14


@pytest.mark.root
@pytest.mark.usefixtures("pinning")
def test_programs_begin_with_the_pages_that_they_write(loop: asyncio.AbstractEventLoop) -> None:
    """The smallest program has some 400 faults otherwise.

    With this backend the runner may lock as much memory as it wants, whatever other executors have locked.
    """
    held = re.search(r"CapEff:\s+([0-9a-f]+)", Path("/proc/self/status").read_text())
    if held is None or not int(held[1], 16) >> CAP_IPC_LOCK & 1:
        pytest.skip("not allowed to lock any amount of memory")
    code = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_minflt < 200)"
    sandbox = Sandbox(SubprocessExecutor(workers=1), loop)
    try:
        assert sandbox.run(code, expected="True").passed
    finally:
        loop.run_until_complete(sandbox.executor.close())


PRACTICE = """
import os, sys, tempfile
from inside import practice, template
from inside.kernel import PR_SET_NO_NEW_PRIVS, prctl
from inside.program import keep_low_descriptors
from inside.tree import own_children
from inside.walls import Walls

keep_low_descriptors()
prctl(PR_SET_NO_NEW_PRIVS, 1)
own_children()  # keeps a descriptor

above = tempfile.mkdtemp()
folder = os.path.join(above, "run")
os.mkdir(folder)
readable = ["/usr", "/lib", "/lib64"]
walls = Walls({"uid": None, "neighbours": None, "readable": readable, "scratch_bytes": None}, folder)
walls.surround()
practice._PATIENCE_MS = 2000

def belongings():
    "Descriptors and children."
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return os.listdir("/proc/self/fd"), file.read()

before = belongings()
"""


def practised(change: str) -> int:
    """Runs a practice after a change of the code; the number of pages found. Asserts that nothing is left."""
    code = f"{PRACTICE}{change}\nfound = practice.practise(folder, walls)\n"
    code += "assert belongings() == before, (before, belongings())\nos.rmdir(folder)\nos.rmdir(above)\n"
    code += "print(sum(one.stop - one.start for one in found))"
    return int(as_in_a_runner(code))


def as_in_a_runner(code: str) -> str:
    """What it prints."""
    code = f"import sys; sys.path.insert(0, sys.argv[1])\n{code}"
    done = subprocess.run(
        [sys.executable, "-s", "-P", "-S", "-c", code, EXECUTION],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_practice_finds_the_pages_that_a_program_writes() -> None:
    """A program needs its stack, its frames, its objects and its counts of references: 300 to 400 pages."""
    assert 50 < practised("") < 2000


@pytest.mark.parametrize(
    "change",
    [
        "practice.PRACTICE = 'while True: pass'",
        "practice.PRACTICE = 'raise SystemExit'",
        "practice.PRACTICE = '1 / 0'",
        "template.program_process = lambda *a, **k: os._exit(0)",
        "template.Template.fork = lambda self, *a: os.kill(self.pid, 9)",
        "template.Template.fork = lambda self, *a: os.write(self._tell, template._NEWBORN.pack(-11))",
    ],
    ids=["hangs", "ends", "fails", "dies", "no template", "no process"],
)
def test_practice_that_fails_finds_nothing_and_leaves_nothing(change: str) -> None:
    assert practised(change) == 0


def test_descriptors_below_those_of_programs_are_kept() -> None:
    code = "import os, sys\nfrom inside.program import JOB, keep_low_descriptors\nos.close(0); os.close(2)\n"
    code += "keep_low_descriptors()\nprint(os.dup(1) > JOB)"
    assert as_in_a_runner(code) == "True\n"


FIRST_COLLECTION = """
class A:
    def __init__(self): self.me = self
    def __del__(self): ended.append(number)
ended = []
for number in range(5000):
    A()
    if ended:
        break
print(number)
"""


def test_the_first_collection_comes_after_as_many_objects_in_each_runner(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """How many pages were found to be written must not be seen by programs: it differs from run to run."""
    sandbox = Sandbox(SubprocessExecutor(workers=2, recycle_after=2), loop)
    try:
        seen = {sandbox.run(FIRST_COLLECTION).stdout for _ in range(12)}
    finally:
        loop.run_until_complete(sandbox.executor.close())
    assert len(seen) == 1
