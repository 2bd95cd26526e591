"""Programs that reach for the machine: files, network, other processes, the kernel; with every backend.

Bounded: at most 20 processes, no signal but the harmless number 0 to anything that is not the program's own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandboxing import CANARY, Sandbox

from rlef_lightning.types import Verdict

PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/")
ARM = platform.machine() == "aarch64"
pytestmark = pytest.mark.every_backend
TRY = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
made = {}
def attempt(name, act, *arguments):
    try: made[name] = repr(act(*arguments))
    except OSError as error: made[name] = "refused"
def call(function, *arguments):
    refusals = errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ESRCH
    if function(*arguments) == -1 and ctypes.get_errno() in refusals: raise OSError(ctypes.get_errno(), "")
"""


def attempts(sandbox: Sandbox, code: str, stdin: str = "") -> dict[str, str]:
    """What a program says became of its attempts, by their names; it must have come to its end."""
    result = sandbox.run(TRY + code + "\nprint(json.dumps(made))", stdin)
    assert result.stderr == "", result
    made: dict[str, str] = json.loads(result.stdout)
    return made


def assert_refused(made: dict[str, str], count: int) -> None:
    assert len(made) == count
    assert set(made.values()) == {"refused"}, made


def bare(code: str, folder: Path) -> dict[str, str]:
    """The same without a sandbox, as an ordinary user: what the attempts are worth."""
    folder.chmod(0o777)
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", TRY + code + "\nprint(json.dumps(made))"],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin"}, **user,
    )  # fmt: skip
    made: dict[str, str] = json.loads(done.stdout)
    return made


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder of the machine that everybody may read and write, with a secret in it."""
    folder = Path(tempfile.mkdtemp(prefix="test-walls-"))
    (folder / "secret").write_text(CANARY)
    (folder / "changeable").write_text("kept")
    (folder / "changeable").chmod(0o666)
    (folder / "secret").chmod(0o644)
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def reading(folder: Path) -> str:
    return f"""
folder = {str(folder)!r}
for path in (folder + "/secret", "/etc/passwd", "/etc/hosts", "/etc/shadow", "/proc/1/environ",
             "/proc/self/root" + folder + "/secret", "../../runner.log", "../../../decoys/secret"):
    attempt(path, lambda: open(path).read())
for path in (folder, "/tmp", "/root", "/home", "/var", "/sys", {str(Path(__file__).parent)!r}):
    attempt("list " + path, os.listdir, path)
attempt("link", os.link, folder + "/secret", "linked")
os.symlink(folder + "/secret", "to")
attempt("symbolic link", lambda: open("to").read())
"""


def changing(folder: Path) -> str:
    return f"""
folder = {str(folder)!r}
for place in (folder, "/tmp", "/var/tmp", "/dev/shm", "/run", "/", "..", "../..", "/dev", "/proc"):
    attempt("make a file in " + place, lambda: open(place + "/test-walls-left", "x").close())
    attempt("make a folder in " + place, os.mkdir, place + "/test-walls-left-too")
path = folder + "/changeable"
attempt("write", lambda: open(path, "r+").write("changed"))
attempt("cut", os.truncate, path, 0)
attempt("mode", os.chmod, path, 0o600)
attempt("times", os.utime, path, (1, 1))
attempt("owner", os.chown, path, os.getuid(), os.getgid())
attempt("attribute", os.setxattr, path, "user.test", b"1")
attempt("move in", os.rename, path, "mine")
open("own", "w").close()
attempt("move out", os.rename, "own", folder + "/own")
attempt("remove", os.unlink, path)
"""


@pytest.mark.parametrize("code", [reading, changing], ids=["reading", "changing"])
def test_without_a_sandbox_it_is_done(code: Callable[[Path], str], open_folder: Path) -> None:
    """What follows would prove nothing about attempts that fail anywhere."""
    folder = open_folder / "inner"
    shutil.copytree(open_folder, folder)
    made = bare(code(folder), folder)
    done = {name for name, outcome in made.items() if outcome != "refused"}
    assert len(done) >= 8, made
    for place in (*PLACES, str(open_folder)):
        Path(place, "test-walls-left").unlink(missing_ok=True)
        shutil.rmtree(Path(place, "test-walls-left-too"), ignore_errors=True)


def test_files_of_the_machine_cannot_be_read(sandbox: Sandbox, open_folder: Path) -> None:
    assert_refused(attempts(sandbox, reading(open_folder)), 17)


def test_a_program_that_is_started_reads_no_more(sandbox: Sandbox, open_folder: Path) -> None:
    code = f"""
import subprocess
folder = {str(open_folder)!r}
for command in (["cat", folder + "/secret"], ["ls", folder], ["cat", "/etc/passwd"]):
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.returncode != 0, done.stdout)
"""
    result = sandbox.run(code, expected="True True True")
    assert result.verdict is Verdict.ACCEPTED, result


def test_files_of_the_machine_cannot_be_changed(sandbox: Sandbox, open_folder: Path) -> None:
    before = (open_folder / "changeable").stat()
    assert_refused(attempts(sandbox, changing(open_folder)), 29)
    after = (open_folder / "changeable").stat()
    assert (open_folder / "changeable").read_text() == "kept"
    assert (after.st_mode, after.st_mtime, after.st_uid) == (before.st_mode, before.st_mtime, before.st_uid)
    assert sorted(os.listdir(open_folder)) == ["changeable", "secret"]
    assert not [place for place in PLACES if Path(place, "test-walls-left").exists()]


def test_the_folders_around_the_scratch_folder_can_be_closed_to_nobody(sandbox: Sandbox) -> None:
    code = """
import os
for path in ("..", "../.."):
    try: os.chmod(path, 0)
    except OSError: pass
print(7)
"""
    for _ in range(4):  # both workers
        sandbox.run(code)
    assert sandbox.judge("open('f', 'w').close()\nprint(7)", [("", "7")] * 4).passed


@pytest.fixture
def listeners() -> Iterator[dict[str, socket.socket]]:
    """Sockets of the machine; what reaches them stays to be seen."""
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0test-walls-{os.getpid()}")
    abstract.listen()
    found = {"tcp": tcp, "udp": udp, "abstract": abstract}
    for one in found.values():
        one.setblocking(False)
    yield found
    for one in found.values():
        one.close()


def reached(one: socket.socket) -> bool:
    try:
        one.recv(1) if one.type == socket.SOCK_DGRAM else one.accept()
    except BlockingIOError:
        return False
    return True


def test_a_listener_would_see_it(listeners: dict[str, socket.socket]) -> None:
    for name, one in listeners.items():
        assert not reached(one)
        with socket.socket(one.family, one.type) as mine:
            mine.connect(one.getsockname())
            mine.send(b"x")
        assert reached(one), name


def test_the_network_cannot_be_reached(sandbox: Sandbox, listeners: dict[str, socket.socket]) -> None:
    code = f"""
import socket
def reach(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(1)
        one.connect(address)
        one.send(b"x")
def pair():
    "A pair of datagram sockets can be pointed at other addresses."
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"x", chr(0) + "test-walls-{os.getpid()}")
attempt("tcp", reach, socket.AF_INET, socket.SOCK_STREAM, {listeners["tcp"].getsockname()!r})
attempt("udp", reach, socket.AF_INET, socket.SOCK_DGRAM, {listeners["udp"].getsockname()!r})
attempt("abstract", reach, socket.AF_UNIX, socket.SOCK_STREAM, chr(0) + "test-walls-{os.getpid()}")
attempt("pair", pair)
attempt("far", reach, socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 80))
attempt("six", reach, socket.AF_INET6, socket.SOCK_STREAM, ("::1", {listeners["tcp"].getsockname()[1]}))
attempt("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
attempt("netlink", socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)
attempt("packet", socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
attempt("vsock", socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)
"""
    made = attempts(sandbox, code)
    assert_refused(made, 10)
    assert not any(reached(one) for one in listeners.values())


def test_event_loops_and_pairs_work(sandbox: Sandbox) -> None:
    code = """
import asyncio, socket
a, b = socket.socketpair()
a.send(b"7")
async def main():
    await asyncio.sleep(0)
    return await asyncio.to_thread(b.recv, 1)
print(asyncio.run(main()).decode())
"""
    assert sandbox.run(code, expected="7").verdict is Verdict.ACCEPTED


def test_the_harness_can_be_neither_read_nor_touched(sandbox: Sandbox) -> None:
    code = f"""
import resource
def other(pid):
    if pid == os.getpid(): raise ProcessLookupError
    return pid
pids = {{"runner": os.getppid() or 1, "daemon": {sandbox.daemon}, "trainer": {os.getpid()}}}
for who, pid in pids.items():
    attempt("signal " + who, lambda: os.kill(other(pid), 0))
    for name in ("environ", "mem", "maps", "stack", "root/etc/passwd", "fd/0", "cwd/.", "task/%d/mem" % pid):
        attempt("read " + name + " of " + who, lambda: open("/proc/%d/%s" % (other(pid), name), "rb").read(1))
    attempt("see the folder of " + who, lambda: os.readlink("/proc/%d/cwd" % other(pid)))
    attempt("trace " + who, lambda: call(libc.ptrace, 0x4206, other(pid), None, None))
    attempt("limit " + who, lambda: resource.prlimit(other(pid), resource.RLIMIT_NOFILE))
    attempt("slow " + who, lambda: os.setpriority(os.PRIO_PROCESS, other(pid), 19))
    attempt("pin " + who, lambda: os.sched_setaffinity(other(pid), {{0}}))
    attempt("hold " + who, lambda: call(libc.syscall, 438, os.pidfd_open(other(pid)), 0, 0))
    attempt("kill more of " + who, lambda: open("/proc/%d/oom_score_adj" % other(pid), "w").write("1000"))
"""
    before = [os.getpriority(os.PRIO_PROCESS, sandbox.daemon), os.sched_getaffinity(sandbox.daemon)]
    made = attempts(sandbox, code)
    assert_refused(made, 3 * 16)
    assert [os.getpriority(os.PRIO_PROCESS, sandbox.daemon), os.sched_getaffinity(sandbox.daemon)] == before


SYSTEM_CALLS = f"""
import mmap
def clone(flags):
    born = libc.syscall({220 if ARM else 56}, flags | 17, 0, 0, 0, 0)
    if born == 0: os._exit(0)
    return born
for name, flag in dict(mounts=0x20000, groups=0x2000000, names=0x4000000, ipc=0x8000000, users=0x10000000,
                       pids=0x20000000, network=0x40000000, time=0x80).items():
    attempt("unshare " + name, call, libc.unshare, flag)
    attempt("clone " + name, call, clone, flag)
attempt("clone3", call, libc.syscall, 435, None, 0)
for name, number in dict(io_uring_setup=425, io_uring_enter=426, io_uring_register=427, open_tree=428,
                         fsopen=430, mount_setattr=442, process_madvise=440).items():
    attempt(name, call, libc.syscall, number, 1, None, 0, 0, 0, 0)
attempt("keyctl", call, libc.syscall, {219 if ARM else 250}, 0, -3, 0)
attempt("add_key", call, libc.syscall, {217 if ARM else 248}, b"user", b"a", b"b", 1, -3)
attempt("bpf", call, libc.syscall, {280 if ARM else 321}, 0, None, 0)
attempt("perf", call, libc.syscall, {241 if ARM else 298}, None, 0, -1, -1, 0)
attempt("userfaultfd", call, libc.syscall, {282 if ARM else 323}, 1)
attempt("shmget", call, libc.shmget, 0, 4096, 0o1600)
attempt("semget", call, libc.semget, 0, 1, 0o1600)
attempt("msgget", call, libc.msgget, 0, 0o1600)
attempt("memfd", os.memfd_create, "x")
attempt("ptrace", call, libc.ptrace, 0, 0, None, None)
attempt("mount", call, libc.mount, b"none", b".", b"tmpfs", 0, None)
attempt("bind", call, libc.mount, b"/", b".", None, 4096, None)
attempt("umount", call, libc.umount2, b"/proc", 2)
attempt("pivot_root", call, libc.syscall, {41 if ARM else 155}, b".", b".")
attempt("chroot", os.chroot, ".")
attempt("sethostname", call, libc.sethostname, b"x", 1)
attempt("device", os.mknod, "disk", 0o60600, os.makedev(8, 0))
attempt("named socket", os.mknod, "socket", 0o140600)
"""


def test_some_system_calls_are_open_to_everybody(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("calls")
    made = bare(SYSTEM_CALLS, folder)
    open_calls = {name for name, outcome in made.items() if outcome != "refused"}
    assert {"keyctl", "memfd", "semget"} <= open_calls


def test_system_calls_into_wider_surfaces_are_refused(sandbox: Sandbox) -> None:
    assert_refused(attempts(sandbox, SYSTEM_CALLS), 42)


def test_started_programs_are_as_confined(sandbox: Sandbox) -> None:
    """Not by no_new_privs and the filter being inherited in theory: `cat` says what it was started with."""
    code = """
import subprocess
said = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
fields = dict(line.split(":", 1) for line in said.splitlines())
print(*(int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")))
print(fields["NoNewPrivs"].strip(), fields["Seccomp"].strip())
"""
    assert sandbox.run(code, expected="0 0 0 0 1 2").verdict is Verdict.ACCEPTED


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other ways to make a call exist on x86-64 only")
def test_other_ways_to_make_a_system_call_are_closed(sandbox: Sandbox) -> None:
    code = """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(0x40000000 | 41, 2, 1, 0), ctypes.get_errno(), flush=True)  # a socket, as x32 does it
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # getpid, by the 32-bit interface
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""
    result = sandbox.run(code)
    assert result.stdout == "-1 38\n"  # ENOSYS
    assert result.verdict is Verdict.RUNTIME_ERROR


def test_no_secret_of_the_trainer_is_found(sandbox: Sandbox, open_folder: Path) -> None:
    """In its environment, in an inherited descriptor, in a file; nor in what a report says."""
    held = os.open(open_folder / "secret", os.O_RDONLY)
    os.set_inheritable(held, True)
    code = f"""
import glob, os
found = []
patterns = ["/proc/self/fd/*", "/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/proc/self/environ"]
for path in [{str(open_folder / "secret")!r}, *(path for pattern in patterns for path in glob.glob(pattern))]:
    try: found.append(os.pread(os.open(path, os.O_RDONLY), 1 << 16, 0))
    except OSError: pass
print(len(found), b"".join(found))
"""
    result = sandbox.run(code)
    os.close(held)
    assert int(result.stdout.split()[0]) >= 2, result
    assert CANARY not in result.stdout + result.stderr
