"""An ordinary user's executor, on kernels that lack one wall or the other: what holds, and what is reported.

The tests run as root start it as a user that nobody else is; a kernel without a feature is one that a filter
of system calls, put up before, makes refuse it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandboxing import FIND_NOTES, LEAVE_NOTES, NO_NOTES

import rlef_lightning
from rlef_lightning.execution.features import features
from rlef_lightning.execution.guarantees import NAMES

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user"),
]
USER = 61_999
"""Neither an account nor one of the spare users of workers."""
ARM = platform.machine() == "aarch64"
LANDLOCK, UNSHARE, PRCTL = 444, 97 if ARM else 272, 167 if ARM else 157
SCRIPT = """
import asyncio, ctypes, json, struct, sys
asked = json.loads(sys.argv[1])

def ins(code, k, yes=0, no=0): return struct.pack("=HBBI", code, yes, no, k)
code = b""
for number, error in asked["refused"]:
    code += ins(0x20, 0) + ins(0x15, number, 0, 1) + ins(0x06, 0x50000 | error)
if asked["no_filters"]:
    code += ins(0x20, 0) + ins(0x15, asked["prctl"], 0, 3)
    code += ins(0x20, 16) + ins(0x15, 22, 0, 1) + ins(0x06, 0x50016)
code += ins(0x06, 0x7FFF0000)
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
if asked["refused"] or asked["no_filters"]:
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0) == 0

import rlef_lightning.execution as execution
from rlef_lightning.errors import ExecutorError
from rlef_lightning.types import Limits, OutputRule, TestCase

async def main():
    executor = getattr(execution, asked["backend"])(workers=1, share_as="", **asked["options"])
    found = {}
    try:
        await executor.start()
        found["proof"] = executor.proof.to_json()
        for code in asked["codes"]:
            report = await executor.judge(
                code, [TestCase(stdin="", expected_stdout="7")] * 2, limits=Limits(memory_bytes=256 << 20),
                rule=OutputRule(), stop_at_first_failure=False)
            found.setdefault("passed", []).append(report.passed)
    except ExecutorError as error:
        found["error"] = str(error)
    await executor.close()
    print(json.dumps(found))

asyncio.run(main())
"""


def interpreter() -> str:
    """A Python that other users can start."""
    code = "import asyncio, os, sys; open(sys._base_executable).close(); sys.exit(sys.version_info < (3, 11))"
    for path in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [path, "-c", code], user=USER, group=USER, extra_groups=[], check=False, capture_output=True
            )
            if done.returncode == 0:
                return path
    pytest.skip("no Python of version 3.11 or later is open to other users")


Start = Callable[..., dict[str, Any]]
IO_URING_SETUP, IO_URING_REGISTER = 425, 427


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts an executor as an ordinary user, in a process of its own, and returns what it found."""
    home, python = Path(tempfile.mkdtemp(prefix="test-ordinary-")), interpreter()
    source, package = Path(rlef_lightning.__file__).parent, home / "rlef_lightning"
    shutil.copytree(source / "execution", package / "execution", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "types.py", "errors.py"):
        shutil.copy(source / name, package / name)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)

    def run(
        backend: str = "SubprocessExecutor",
        refused: tuple[tuple[int, int], ...] = (),
        no_filters: bool = False,
        codes: tuple[str, ...] = (),
        **options: object,
    ) -> dict[str, Any]:
        asked = {
            "backend": backend, "refused": refused, "no_filters": no_filters, "codes": codes,
            "options": options, "prctl": PRCTL,
        }  # fmt: skip
        done = subprocess.run(
            [python, "-B", "-c", SCRIPT, json.dumps(asked)], cwd="/", user=USER, group=USER, extra_groups=[],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(home)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    yield run
    shutil.rmtree(home)


def gaps(found: dict[str, Any]) -> dict[str, str]:
    """Guarantee -> reason, of those that do not hold."""
    return {f["name"]: f["reason"] for f in found["proof"]["findings"] if f["reason"]}


@pytest.fixture(scope="module")
def able(start: Start) -> None:
    """Skips where this kernel itself lacks what the tests take away."""
    machine = features()
    lacking = [name for name in ("Landlock", "filters of system calls") if machine[name].startswith("none")]
    if lacking or machine["user name spaces"] != "allowed":
        pytest.skip(f"this machine has no {', '.join(lacking) or 'user name spaces'}")
    if start()["proof"]["walls_missing"]:
        pytest.skip("ordinary users cannot make name spaces here")


NO_NAMESPACES = ((UNSHARE, errno.EPERM),)
NO_LANDLOCK = ((LANDLOCK, errno.ENOSYS),)
WITHOUT = {
    "asked not to": ({"namespaces": False}, [], {"process_count", "disk", "write_files"}),
    "name spaces": (
        {"refused": NO_NAMESPACES},
        ["no mounts of its own", "no name spaces"],
        {"process_count", "disk", "write_files"},
    ),
    "Landlock": ({"refused": NO_LANDLOCK}, ["no Landlock"], {"read_files", "write_files", "processes"}),
    "filters": ({"no_filters": True}, ["no filter of system calls"], {"network", "system_calls"}),
    "all of them": (
        {"refused": NO_NAMESPACES + NO_LANDLOCK, "no_filters": True},
        ["no Landlock", "no filter of system calls", "no mounts of its own", "no name spaces"],
        {"process_count", "disk", "read_files", "write_files", "processes", "network", "system_calls"},
    ),
}


@pytest.mark.usefixtures("able")
def test_with_all_walls_everything_holds(start: Start) -> None:
    assert gaps(start(required=NAMES)) == {}


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case == "all of them" else pytest.mark.slow) for case in WITHOUT]
)
def test_what_is_lacking_is_reported_and_what_is_promised_is_kept(start: Start, case: str) -> None:
    asked, walls, lost = WITHOUT[case]
    found = start(**asked)  # the default: it requires what it promises
    missing = found["proof"]["walls_missing"]
    assert all(any(said.startswith(wall) for said in missing) for wall in walls), missing
    assert len(missing) == len(walls)
    assert lost <= set(gaps(found)) <= lost | {"processes"}, gaps(found)
    assert ("hide the CPU time of its children" in str(gaps(found))) is bool(asked.get("no_filters"))


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("call", [IO_URING_SETUP, IO_URING_REGISTER])
def test_without_io_uring_everything_holds(start: Start, call: int) -> None:
    found = start(refused=((call, errno.EPERM),), required=NAMES, codes=("print(7)", "print(3 + 4)"))
    assert gaps(found) == {}
    assert found["passed"] == [True, True]


def test_what_is_required_and_lacking_ends_the_start(start: Start) -> None:
    found = start(refused=NO_NAMESPACES + NO_LANDLOCK, no_filters=True, required=["network", "time"])
    assert "proof" not in found
    assert "'network': a program could reach" in found["error"]
    assert "system_calls" not in found["error"]


@pytest.mark.parametrize("namespaces", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_program_cannot_close_the_folders_to_the_next_one(start: Start, namespaces: bool) -> None:
    closing = """
import os
for path in ("..", "../.."):
    try: os.chmod(path, 0)
    except OSError: pass
print(7)
"""
    writing = "open('file', 'w').write('x')\nprint(7)"
    found = start(codes=(writing, closing, "print(7)", writing), namespaces=namespaces)
    assert "error" not in found, found
    assert found["passed"] == [True] * 4


CHECKED = f"""
import contextlib, io
said = io.StringIO()
with contextlib.redirect_stdout(said): exec({FIND_NOTES!r})
print(7 if said.getvalue() == {NO_NOTES!r} else said.getvalue())
"""


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(
    "case",
    [
        "nothing",
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("asked not to", "Landlock", "filters")),
    ],
)
def test_a_note_on_what_stays_is_not_found(start: Start, case: str) -> None:
    """The folders above are the user's own here, and cannot be new ones."""
    asked = WITHOUT[case][0] if case in WITHOUT else {}
    found = start(codes=(CHECKED, LEAVE_NOTES, CHECKED, LEAVE_NOTES + "open('kept', 'w')", CHECKED), **asked)
    assert "error" not in found, found
    assert found["passed"] == [True] * 5


@pytest.mark.usefixtures("able")
def test_a_full_and_closed_scratch_folder_costs_no_runner(start: Start) -> None:
    filling = """
import os
home = os.getcwd()
try:
    while True: os.mkdir("d"); os.chdir("d"); os.chmod(".", 0o300)
except OSError as error: assert error.errno == 28
os.chmod(home, 0)
print(7)
"""
    writing = "open('file', 'w').write('7')\nprint(open('file').read())"
    found = start(codes=(filling, writing), retries=0)
    assert "error" not in found, found
    assert found["passed"] == [True] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "program"), [("NsjailExecutor", "nsjail"), ("BubblewrapExecutor", "bwrap")]
)
def test_jails_hold_everything_for_ordinary_users_too(start: Start, backend: str, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    if features()["user name spaces"] != "allowed":
        pytest.skip("this machine allows no user name spaces")
    found = start(backend, codes=("open('file', 'w').write('x')\nprint(7)",))
    assert gaps(found) == {}
    assert found["passed"] == [True]


def test_a_firejail_that_does_not_let_the_user_in_is_an_error(start: Start) -> None:
    if shutil.which("firejail") is None:
        pytest.skip("firejail is not installed")
    assert "a runner of the sandbox does not start" in start("FirejailExecutor")["error"]
