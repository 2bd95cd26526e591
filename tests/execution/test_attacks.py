"""Programs that mean harm, or cheat: the verdict, what is left behind, and the next run's health.

Bounded on purpose: at most 50 processes, small files, only their own descendants.
"""

from __future__ import annotations

import os
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxing import CANARY, LIMITS, Sandbox

from rlef_lightning.types import Verdict

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="programs get users of their own only under root")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("exit(0)", Verdict.WRONG_ANSWER),
        ("import os\nos._exit(0)", Verdict.WRONG_ANSWER),
        ("import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(1)", Verdict.WRONG_ANSWER),
        ("print('1 2')", Verdict.WRONG_ANSWER),
        ("print('1 2 3 4')", Verdict.WRONG_ANSWER),
        ("import sys\nsys.stdout = None", Verdict.WRONG_ANSWER),
        (
            "class A(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
            "print(A('x'))",
            Verdict.WRONG_ANSWER,
        ),
        ("import builtins\nbuiltins.open = builtins.compile = print", Verdict.WRONG_ANSWER),
        ("import os\nos._exit = lambda code: None\nraise ValueError", Verdict.RUNTIME_ERROR),
        ("import sys\nsys.excepthook = lambda *a: None\n1 / 0", Verdict.RUNTIME_ERROR),
        ("import os\nos.execv('/bin/true', ['true'])", Verdict.WRONG_ANSWER),
        ("import os\nos.write(3, b'r')", Verdict.RUNTIME_ERROR),
        # the sign by which a program says that it could not get memory: it harms itself only
        ("import signal, os\nos.kill(os.getpid(), signal.SIGUSR2)", Verdict.MEMORY_LIMIT),
    ],
)
def test_cheats_do_not_pass(sandbox: Sandbox, code: str, verdict: Verdict) -> None:
    report = sandbox.judge(code, [("", "1 2 3\n")] * 2)
    assert [result.verdict for result in report.results] == [verdict] * 2


def test_no_os_exit_leads_back_into_the_runner(sandbox: Sandbox) -> None:
    code = "import os\nos._exit = lambda code: None\nprint(7)"
    limits = replace(LIMITS, wall_s=1.0)
    for _ in range(3):
        sandbox.run(code, expected="7", limits=limits)  # whatever it gets, the runner stays well


SEARCH = """
import gc, sys, zlib
own_input = sys.stdin.read()  # the search finds it: see the second test
def secrets(data):  # the program knows a prefix and a checksum, not the secret itself
    at = data.find(b"canary-")
    while at >= 0:
        yield zlib.crc32(data[at + 7:at + 15]) == CHECKSUM
        at = data.find(b"canary-", at + 1)
seen, pending, hits = set(), [sys.modules, *gc.get_objects()], 0
frame = sys._getframe()
while frame:
    pending += [frame.f_locals, frame.f_globals]
    frame = frame.f_back
while pending:
    one = pending.pop()
    if id(one) not in seen:
        seen.add(id(one))
        pending += gc.get_referents(one)
        if isinstance(one, (str, bytes, bytearray)):
            hits += sum(secrets(one.encode(errors="replace") if isinstance(one, str) else one))
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps.readlines():
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        try:
            memory.seek(start)
            hits += sum(secrets(memory.read(end - start)))
        except (OSError, OverflowError, ValueError):
            pass
for name in ("cmdline", "environ"):
    hits += sum(secrets(open("/proc/self/" + name, "rb").read()))
print(len(seen) > 1000, hits > 0)
"""


def test_the_expected_output_is_nowhere_in_the_program(sandbox: Sandbox) -> None:
    secret = "4f7d0c71"
    code = SEARCH.replace("CHECKSUM", str(zlib.crc32(secret.encode())))
    tests = [("", f"canary-{secret}"), (f"canary-{secret}", "True True")]
    hidden, control = sandbox.judge(code, tests, stop=False).results
    assert hidden.stdout == "True False\n", hidden
    assert control.passed, "the search itself must find what is there"


@pytest.mark.every_backend
def test_nothing_of_other_programs_is_in_its_memory(sandbox: Sandbox) -> None:
    secrets = {"code": "9a3e55b0", "stdin": "c41f8820", "stdout": "e07b6d19", "stderr": "52d8f3c6"}
    teller = f"""
import sys
kept = 'canary-{secrets["code"]}' + input()
print('can' + 'ary-{secrets["stdout"]}')
print('can' + 'ary-{secrets["stderr"]}', file=sys.stderr)
"""
    for _ in range(4):  # on either worker
        sandbox.run(teller, stdin=f"canary-{secrets['stdin']}\n")
    for secret in secrets.values():
        code = SEARCH.replace("CHECKSUM", str(zlib.crc32(secret.encode())))
        report = sandbox.judge(code, [("", "True False")] * 4)
        assert report.passed, [result.stdout for result in report.results]


def test_the_environment_holds_no_secret(sandbox: Sandbox) -> None:
    assert os.environ["RLEF_TEST_SECRET"] == CANARY
    result = sandbox.run("import os\nprint(sorted(os.environ), list(os.environ.values()))")
    assert CANARY not in result.stdout
    assert "RLEF_TEST_SECRET" not in result.stdout


@needs_root
def test_no_other_process_can_be_read_or_signalled(sandbox: Sandbox) -> None:
    code = f"""
import os
for pid in (os.getppid() or 1, {sandbox.daemon}, {os.getpid()}):
    for name in ("environ", "mem", "fd"):
        try: os.listdir(f"/proc/{{pid}}/fd") if name == "fd" else open(f"/proc/{{pid}}/{{name}}").close()
        except (PermissionError, FileNotFoundError): print("denied", end=" ")
    try: os.kill(pid, 0)
    except (PermissionError, ProcessLookupError): print("denied", end=" ")
"""
    result = sandbox.run(code, expected="denied " * 12)
    assert result.verdict is Verdict.ACCEPTED, result


@needs_root
def test_it_has_no_rights_of_root(sandbox: Sandbox) -> None:
    code = """
import os
for act in (lambda: os.setuid(0), lambda: open("/etc/shadow"), lambda: os.chroot("."),
            lambda: os.chown(".", 0, 0), lambda: os.nice(-5), lambda: open("../runner.log"),
            lambda: os.rename("../run", "../gone"), lambda: os.listdir("../../..//root")):
    try: act()
    except OSError: print("denied", end=" ")
print(os.getuid() == 0, os.getgroups())
"""
    assert sandbox.run(code, expected="denied " * 8 + "False []").verdict is Verdict.ACCEPTED


@pytest.mark.every_backend
def test_it_holds_no_descriptor_but_the_three_streams(sandbox: Sandbox) -> None:
    code = """
import os
held = []
for fd in range(3, 4096):
    try: held.append((fd, os.readlink(f"/proc/self/fd/{fd}")))
    except OSError: pass
print(held)
"""
    assert sandbox.run(code, expected="[]").verdict is Verdict.ACCEPTED


def test_stdin_cannot_be_changed(sandbox: Sandbox) -> None:
    code = """
import os
for act in (lambda: os.write(0, b"x"), lambda: os.ftruncate(0, 0),
            lambda: os.write(os.open("/proc/self/fd/0", os.O_RDWR), b"x"),
            lambda: os.ftruncate(os.open("/proc/self/fd/0", os.O_RDWR), 0)):
    try: act()
    except OSError: print("denied", end=" ")
print(input())
"""
    assert sandbox.run(code, "7\n", "denied denied denied denied 7").verdict is Verdict.ACCEPTED


FORKS = """
import os, time
born = 1
try:
    while born < 50:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        born += 1
        time.sleep(0.002)
except OSError:
    pass
print(born)
time.sleep(0.5)
"""


@pytest.mark.every_backend
def test_forks_are_bounded(sandbox: Sandbox) -> None:
    result = sandbox.run(FORKS, limits=replace(LIMITS, processes=8))
    if ROOT:
        assert result.stdout == "8\n"  # the kernel refused the ninth
    else:
        assert result.verdict is Verdict.RUNTIME_ERROR


@needs_root
def test_threads_are_bounded(sandbox: Sandbox) -> None:
    code = """
import threading
done = threading.Event()
try:
    for n in range(50): threading.Thread(target=done.wait).start()
except RuntimeError: print(n + 1)
done.set()
"""
    assert sandbox.run(code, expected="8", limits=replace(LIMITS, processes=8)).verdict is Verdict.ACCEPTED


@pytest.mark.every_backend
def test_a_fork_bomb_ends_with_its_run(sandbox: Sandbox) -> None:
    code = """
import os
for _ in range(5):
    try: os.fork()
    except OSError: pass
while True: pass
"""
    result = sandbox.run(code, limits=replace(LIMITS, cpu_s=0.5))
    assert result.verdict is Verdict.TIME_LIMIT


@pytest.mark.every_backend
@pytest.mark.parametrize("flags", ["SIG_IGN", "SA_NOCLDWAIT"])
def test_nobody_hides_the_time_of_children(sandbox: Sandbox, flags: str) -> None:
    """The kernel counts no time of children whose end their parent ignores. Six of them work 0.15 s each."""
    ignore = {
        "SIG_IGN": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "SA_NOCLDWAIT": "action = ctypes.create_string_buffer(160)\n"
        "    action[136] = 2\n"  # struct sigaction of glibc: handler, 128 bytes of mask, flags
        "    if ctypes.CDLL(None).sigaction(17, action, None): raise OSError",
    }[flags]
    code = f"""
import ctypes, os, signal, time
try:
    {ignore}
except OSError: pass
for _ in range(6):
    if os.fork() == 0:
        while time.process_time() < 0.15: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
print(7)
"""
    result = sandbox.run(code, expected="7", limits=replace(LIMITS, cpu_s=0.5))
    assert result.verdict is Verdict.TIME_LIMIT
    assert result.cpu_s >= 0.5


@pytest.mark.every_backend
@pytest.mark.parametrize("how", ["plain", "setsid", "double fork", "ignores signals", "parent dies first"])
def test_what_outlives_main_is_gone_afterwards(sandbox: Sandbox, how: str) -> None:
    steps = {
        "plain": "",
        "setsid": "os.setsid()",
        "double fork": "os.setsid()\n    if os.fork(): os._exit(0)\n    os.setpgid(0, 0)",
        "ignores signals": "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 15)]\n    os.setsid()",
        "parent dies first": "os.setsid()\n    if os.fork(): os.kill(os.getpid(), 9)",
    }[how]
    code = f"""
import os, signal, time
r, w = os.pipe()
if os.fork() == 0:
    {steps or "pass"}
    os.write(w, str(os.getpid()).encode())
    time.sleep(60)
    os._exit(0)
print(int(os.read(r, 20)))
"""
    started = time.monotonic()
    result = sandbox.run(code)
    assert time.monotonic() - started < 5
    assert int(result.stdout) > 1
    assert sandbox.at_rest()


@pytest.mark.every_backend
def test_a_sibling_of_main_is_gone_afterwards(sandbox: Sandbox) -> None:
    code = """
import ctypes, os, time
CLONE_PARENT, SIGCHLD, call = 0x8000, 17, {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if ctypes.CDLL(None).syscall(call, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0:
    time.sleep(60)
print(7)
"""
    assert sandbox.run(code, expected="7").passed


@pytest.mark.every_backend
def test_killing_all_that_it_may_ends_itself_at_most(sandbox: Sandbox) -> None:
    runners = sandbox.runners()
    outside = os.readlink("/proc/self/ns/pid")  # never in a name space in which the machine's processes are
    code = f"import os\nif os.readlink('/proc/self/ns/pid') != '{outside}':\n    os.kill(-1, 9)"
    sandbox.run(code)
    sandbox.assert_healthy()
    assert sandbox.runners() == runners


def test_a_stray_does_not_write_into_the_next_run(sandbox: Sandbox) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(0.2)
    print("late")
else: print(7)
"""
    assert sandbox.run(code, expected="7").passed
    report = sandbox.judge("import time\ntime.sleep(0.2)\nprint(7)", [("", "7")] * 2)
    assert report.passed


def test_a_traced_or_stopped_child_does_not_hang_the_run(sandbox: Sandbox) -> None:
    code = "import os, signal\nos.fork()\nos.kill(os.getpid(), signal.SIGSTOP)"
    result = sandbox.run(code, limits=replace(LIMITS, wall_s=0.5))
    assert result.verdict is Verdict.TIME_LIMIT


@pytest.mark.every_backend
def test_deep_and_locked_folders_are_wiped(sandbox: Sandbox) -> None:
    code = """
import os
for _ in range(1100):  # deeper than Python recurses, longer than a path may be
    os.mkdir("deep"); os.symlink("/", "link"); os.chdir("deep")
os.chmod(".", 0)
print(7)
"""
    assert sandbox.judge(code, [("", "7")] * 2).passed
    assert sandbox.judge("import os\nprint(os.listdir('.'))", [("", "[]")] * 4).passed
    assert Path("/etc").is_dir()


def test_a_link_out_of_the_scratch_folder_is_not_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    code = f"import os\nos.symlink({str(tmp_path)!r}, 'link')\nos.symlink({str(tmp_path / 'kept')!r}, 'file')"
    sandbox.run(code)
    sandbox.assert_healthy()
    assert (tmp_path / "kept").read_text() == "kept"


def test_closing_the_streams_is_no_failure_of_the_sandbox(sandbox: Sandbox) -> None:
    result = sandbox.run(
        "import os\nos.closerange(0, 256)\nwhile True: pass", limits=replace(LIMITS, cpu_s=0.2)
    )
    assert result.verdict is Verdict.TIME_LIMIT


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("import ctypes\nctypes.string_at(0)", Verdict.RUNTIME_ERROR),
        (
            "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n"
            "  def __repr__(s): return repr([s])\nrepr(A())",
            Verdict.TIME_LIMIT,
        ),
        ("(lambda f: f(f))(lambda f: f(f))", Verdict.RUNTIME_ERROR),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_AS, (8 << 20, 8 << 20))\n"
            "x = 'x' * (64 << 20)",
            Verdict.MEMORY_LIMIT,
        ),
        ("import os\nos.chdir('/')\nos.rmdir(os.environ['HOME'])\n1 / 0", Verdict.RUNTIME_ERROR),
        (
            "import sys, gc\nfor m in list(sys.modules): sys.modules.pop(m)\ngc.collect()\n1 / 0",
            Verdict.RUNTIME_ERROR,
        ),
        ("class E(BaseException):\n    def __str__(self): raise self\nraise E", Verdict.RUNTIME_ERROR),
        ("import threading\nthreading._shutdown = None", Verdict.ACCEPTED),  # as in plain Python: ignored
        ("import atexit, threading\ndel atexit._run_exitfuncs, threading._shutdown", Verdict.ACCEPTED),
        ("(" * 300, Verdict.SYNTAX_ERROR),
        # the parser takes its own depth for a lack of memory
        ("-" * 200_000 + "1", Verdict.MEMORY_LIMIT),
        ("x = " + "[" * 150 + "]" * 150 + "\n1 / 0", Verdict.RUNTIME_ERROR),
    ],
)
def test_crashes_stay_with_the_program(sandbox: Sandbox, code: str, verdict: Verdict) -> None:
    """Each has printed what is expected, so that nothing but its end tells it from a right program."""
    result = sandbox.run("print(7, flush=True)\n" + code, expected="7", limits=replace(LIMITS, cpu_s=2.0))
    assert result.verdict is verdict, result


def test_nothing_is_left_of_any_run(sandbox: Sandbox) -> None:
    assert sandbox.at_rest()
