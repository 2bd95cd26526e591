"""job over the control socket -> fork -> one program -> facts back. One job at a time.

The trusted warm process, process 1 of a jail where the backend has one. Standard library only and a
single file, run as `python -s -P -S runner.py '<json>'` with a clean environment. It does not know
expected outputs and does not judge: it says what the kernel said (wait status, clocks, memory) and
hands back the bytes that the program printed. The program's process never holds the control socket.

    <- {"limits": {...}} + code + stdin
    -> {"stage", "status", "stopped", "cpu_s", "wall_s", "peak_memory_bytes", "strays"} + stdout + stderr
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import linecache
import math
import os
import random
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterable
from typing import Any, NoReturn

PRELOADED = (
    "__future__ abc argparse array ast base64 binascii bisect calendar cmath cmd codecs collections.abc "
    "contextvars copy csv dataclasses datetime decimal difflib enum errno fractions functools getpass glob "
    "graphlib hashlib heapq inspect itertools keyword locale math numbers operator pathlib pickle platform "
    "pprint queue random re reprlib secrets select shlex shutil signal statistics string struct subprocess "
    "tempfile textwrap threading time timeit token tokenize types typing unicodedata unittest uuid warnings "
    "weakref zlib"
).split()
FILE_NAME = "solution.py"
SIGNAL_OUT_OF_MEMORY = signal.SIGUSR2
"""How the bootstrap says "uncaught MemoryError". A program may fake it; that only renames its failure."""
PIPE_BYTES = 1 << 20
READ_BYTES = 1 << 20
STACK_BYTES = 256 << 20
THREAD_STACK_BYTES = 8 << 20
OPEN_FILES = 256
FIRST_TICK_S, LAST_TICK_S = 0.002, 0.05
MEMFD_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
libc = ctypes.CDLL(None, use_errno=True)


# ---------------------------------------------------------------------------------- kernel


def prctl(option: int, value: int) -> None:
    """prctl(2); raises OSError."""
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def sealed_stdin(data: bytes) -> int:
    """A read-only descriptor of a regular file with these bytes, which nobody can change any more.

    Regular, because programs size their read by fstat; a pipe would make some of them fail.
    """
    writable = os.memfd_create("stdin", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(writable, view) :]
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, MEMFD_SEALS)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def output_pipe(uid: int | None) -> tuple[int, int]:
    """A pipe (read end, write end); `uid` may open it anew, as `open("/dev/stdout", "w")` does."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reader, False)
    with contextlib.suppress(OSError):  # beyond the user's share of pipe memory: the default size does
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    if uid is not None:
        os.fchown(writer, uid, uid)
    return reader, writer


def children_of(pid: int) -> list[int]:
    """Direct children of a process, those of all its threads; empty when it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants_of(pid: int) -> list[int]:
    """All processes below `pid`, parents before children."""
    found = children_of(pid)
    for child in found:  # grows while it is walked: breadth first
        found += children_of(child)
    return found


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a live process with all its threads, without its children."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's encoding of "process clock of pid"
    except OSError:
        return 0.0


def waited_cpu_seconds(pid: int) -> float:
    """CPU seconds of the children that a live process has waited for, in the kernel's 10 ms ticks."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


# ---------------------------------------------------------------------- in the program's process


def become_program(fds: tuple[int, int, int], status: int, folder: str) -> int:
    """Own session, the three streams, no other descriptor but the status pipe (moved to 3)."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (*fds, status)]
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(4, max(high) + 64)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 3:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.chdir(folder)
    return 3


def confine(limits: dict[str, Any], uid: int | None) -> None:
    """Everything the kernel shall refuse to this process from here on; the hook for further walls."""
    cpu_s = math.ceil(limits["cpu_s"]) + 1  # the backup: the runner's own clock is finer
    lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)
    lower(resource.RLIMIT_FSIZE, limits["file_bytes"])
    lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    lower(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError):  # when memory runs out, this process goes before the trainer
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    if uid is not None:
        lower(resource.RLIMIT_NPROC, limits["processes"])  # counted per user: needs a user of its own
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        prctl(PR_SET_DUMPABLE, 1)  # else /proc/self, and with it /dev/stdin, belongs to root
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # was cleared by the change of user
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    lower(resource.RLIMIT_AS, limits["memory_bytes"])


def lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Sets a resource limit, never above the one in force."""
    ceiling = resource.getrlimit(kind)[1]
    ceiling = sys.maxsize if ceiling == resource.RLIM_INFINITY else ceiling
    resource.setrlimit(kind, (min(soft, ceiling), min(soft if hard is None else hard, ceiling)))


def fresh_interpreter(folder: str, code: str) -> dict[str, Any]:
    """Makes the forked interpreter look newly started; returns the namespace of its `__main__`."""
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]
    sys.argv[:] = sys.orig_argv[:] = [FILE_NAME]
    sys.path.insert(0, folder)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = stream(1, "surrogateescape", False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = stream(2, "backslashreplace", True)  # type: ignore[misc]
    random.seed(0)  # the same program gets the same verdict each time
    linecache.cache[FILE_NAME] = (len(code), None, code.splitlines(True), FILE_NAME)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=FILE_NAME, __builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    gc.enable()
    return main.__dict__


def stream(fd: int, errors: str, by_line: bool) -> io.TextIOWrapper:
    """A text stream like those that Python opens at its start when they are no terminal."""
    raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, newline="\n", line_buffering=by_line)


def execute(code: str, folder: str, status: int) -> int:
    """Compiles and runs the program; returns its exit code. Bytes on `status` tell how far it came.

    c = ready to compile, s = does not compile, m = no memory to compile, r = about to run. The pipe
    is closed before the program's first statement, so the program cannot write there.
    """
    namespace = fresh_interpreter(folder, code)
    os.write(status, b"c")
    try:
        program = compile(code, FILE_NAME, "exec", dont_inherit=True)
    except MemoryError:
        os.write(status, b"m")
        return 1
    except BaseException as error:
        os.write(status, b"s")
        sys.stderr.write("".join(traceback.format_exception_only(error)))
        return 1
    os.write(status, b"r")
    os.close(status)
    try:
        exec(program, namespace)
    except SystemExit as error:
        return exit_code(error.code)
    except BaseException as error:
        report_uncaught(error)
        return 1
    return 0


def exit_code(value: object) -> int:
    """What the interpreter makes of the argument of sys.exit()."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF
    print(value, file=sys.stderr)
    return 1


def report_uncaught(error: BaseException) -> None:
    """Prints the traceback as Python would; an uncaught MemoryError ends the process right here."""
    with contextlib.suppress(BaseException):
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            sys.stderr.write(own_traceback(error))
    if isinstance(error, MemoryError):
        flush()
        signal.signal(SIGNAL_OUT_OF_MEMORY, signal.SIG_DFL)
        os.kill(os.getpid(), SIGNAL_OUT_OF_MEMORY)


def own_traceback(error: BaseException) -> str:
    """The traceback with the program's own frames only: library paths tell a reader nothing."""
    rendered = traceback.TracebackException.from_exception(error, limit=-100)
    pending: list[traceback.TracebackException | None] = [rendered]
    while pending:
        one = pending.pop()
        if one is not None:
            own = [frame for frame in one.stack if frame.filename == FILE_NAME]
            one.stack = traceback.StackSummary.from_list(own)
            pending += [one.__cause__, one.__context__]
    return "".join(rendered.format())


def flush() -> None:
    """Empties the buffers of the standard streams, whatever the program has made of them."""
    for name in ("stdout", "stderr"):
        with contextlib.suppress(BaseException):
            getattr(sys, name).flush()


def program_process(job: Job, fds: tuple[int, int, int], status: int) -> NoReturn:
    """What the forked process does until its end; never returns into the runner's loop."""
    code = 1
    try:
        status = become_program(fds, status, job.folder)
        confine(job.limits, job.uid)
        code = execute(job.code, job.folder, status)
        threading._shutdown()  # type: ignore[attr-defined]  # joins threads, as at the interpreter's end
        atexit._run_exitfuncs()
    except SystemExit as error:
        code = exit_code(error.code)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, own_traceback(error).encode(errors="replace"))
        code = 1
    finally:
        flush()
        os._exit(code)


# ------------------------------------------------------------------------------ in the runner


class Job:
    """One program with its input, the limits of the run, and the user that it runs as."""

    def __init__(self, header: dict[str, Any], code: bytes, stdin: bytes, folder: str, uid: int | None):
        self.limits: dict[str, Any] = header["limits"]
        self.code = code.decode("utf-8", "surrogatepass")
        self.stdin, self.folder, self.uid = stdin, folder, uid


class Watch:
    """One running program: its streams and clocks, until it ends or breaks a limit."""

    def __init__(self, pid: int, job: Job, readers: tuple[int, int, int], control: int):
        self.pid, self.limits, self.control = pid, job.limits, control
        self.pidfd = os.pidfd_open(pid)
        self.streams = {fd: bytearray() for fd in readers}
        self.open_streams = list(readers)
        self.out, self.err, self.status = readers
        self.stopped: str | None = None
        self.started = time.monotonic()
        self.poll = select.poll()
        for fd in (*readers, self.pidfd):
            self.poll.register(fd, select.POLLIN)
        self.poll.register(control, select.POLLRDHUP)

    def until_end(self) -> None:
        """Returns when the program's main process has ended (not yet reaped) or `stopped` is set."""
        tick_s = FIRST_TICK_S
        while self.stopped is None:
            ready = dict(self.poll.poll(self.pause_ms(tick_s)))
            if self.control in ready:
                raise EOFError("the daemon has gone")
            self.collect([fd for fd in ready if fd in self.streams])
            if self.pidfd in ready:
                return
            self.check_clocks()
            tick_s = min(2 * tick_s, LAST_TICK_S)

    def pause_ms(self, tick_s: float) -> float:
        """Milliseconds to sleep: to the next limit at the soonest, a tick at the latest."""
        left_s = self.limits["cpu_s"] - cpu_seconds(self.pid)
        return 1000 * max(0.001, min(tick_s, left_s))

    def check_clocks(self) -> None:
        """Sets `stopped` when the program and its processes have used up a clock, or are too many."""
        below = descendants_of(self.pid)
        cpu_s = sum(cpu_seconds(pid) + waited_cpu_seconds(pid) for pid in below) + cpu_seconds(self.pid)
        if cpu_s + waited_cpu_seconds(self.pid) > self.limits["cpu_s"]:
            self.stopped = "cpu"
        elif time.monotonic() - self.started > self.limits["wall_s"]:
            self.stopped = "wall"
        elif len(below) >= self.limits["processes"] and self.stopped is None:
            self.stopped = "processes"

    def collect(self, fds: Iterable[int]) -> bool:
        """Takes over what the streams hold now; False when nothing came. May set `stopped`."""
        came = False
        for fd in fds:
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                continue
            if data:
                came = True
                self.keep(fd, data)
            else:
                self.poll.unregister(fd)
                self.open_streams.remove(fd)
        return came

    def keep(self, fd: int, data: bytes) -> None:
        """Adds to what was printed, up to the output limit."""
        kept = self.streams[fd]
        kept += data
        if len(kept) > self.limits["output_bytes"]:
            self.stopped = self.stopped or "output"
            del kept[self.limits["output_bytes"] :]

    def drain(self) -> None:
        """Reads what is left in the streams once every writer is dead."""
        while self.open_streams and self.collect(list(self.open_streams)):
            pass


def kill_and_reap(main: int) -> tuple[int, resource.struct_rusage, list[resource.struct_rusage]]:
    """Ends the program and all that it left behind; (wait status, its usage, usage of the strays).

    The runner is the subreaper, so every process of the program is below it however it detached
    itself, and nothing else is. Stopping all before killing any keeps a fork bomb from outrunning us.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(main, signal.SIGKILL)  # not reaped yet, so the id cannot be another's
    _, status, usage = os.wait4(main, 0)
    strays: list[resource.struct_rusage] = []
    while True:
        try:
            pid, _, stray = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return status, usage, strays
        if pid:
            strays.append(stray)
        else:
            stop_then_kill()


def stop_then_kill() -> None:
    """SIGSTOP for every process below the runner until no new one appears, then SIGKILL for all."""
    stopped: set[int] = set()
    while new := set(descendants_of(os.getpid())) - stopped:
        signal_all(new, signal.SIGSTOP)
        stopped |= new
    signal_all(stopped, signal.SIGKILL)
    time.sleep(0.0005)  # they need a moment to die


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Sends a signal to each; those that have gone meanwhile are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def run(job: Job, control: int) -> tuple[dict[str, Any], bytes, bytes]:
    """Runs one program to its end: (facts, stdout, stderr)."""
    pipes = [output_pipe(job.uid) for _ in range(3)]
    readers, (out, err, status) = zip(*pipes, strict=True)
    stdin = sealed_stdin(job.stdin)
    pid = os.fork()
    if pid == 0:
        program_process(job, (stdin, out, err), status)
    for fd in (stdin, out, err, status):
        os.close(fd)
    watch = Watch(pid, job, readers, control)
    try:
        watch.until_end()
    finally:
        wall_s = time.monotonic() - watch.started
        ended = kill_and_reap(pid)
    try:
        watch.drain()
        return facts(watch, wall_s, *ended), bytes(watch.streams[watch.out]), bytes(watch.streams[watch.err])
    finally:
        for fd in (*readers, watch.pidfd):
            os.close(fd)


def facts(
    watch: Watch, wall_s: float, status: int, usage: resource.struct_rusage, strays: list[resource.struct_rusage]
) -> dict[str, Any]:
    """What the kernel says about the run. `stage` is the last byte of the status pipe."""
    every = [usage, *strays]
    return {
        "stage": watch.streams[watch.status][-1:].decode(),
        "status": os.waitstatus_to_exitcode(status),
        "stopped": watch.stopped,
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in every),
        "wall_s": wall_s,
        "peak_memory_bytes": max(one.ru_maxrss for one in every) * 1024,
        "strays": len(strays),
    }


def empty_folder(path: str, uid: int | None) -> None:
    """Makes `path` a new, empty folder of the program's user."""
    try:
        os.rmdir(path)  # most programs write no file
    except FileNotFoundError:
        pass
    except OSError:
        shutil.rmtree(path, onerror=unlock)
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, uid)


def unlock(function: Any, path: str, _error: Any) -> None:
    """Helps rmtree past folders that the program made unreadable."""
    parent = os.path.dirname(path)
    for folder in (parent, path):
        if stat.S_ISDIR(os.lstat(folder).st_mode):
            os.chmod(folder, 0o700)
    if function is os.unlink or function is os.rmdir:
        function(path)
    else:
        shutil.rmtree(path)


def receive(control: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
    """One frame: a length, that many bytes of JSON, then the blobs whose lengths the JSON names."""
    (length,) = struct.unpack("!I", receive_exactly(control, 4))
    header = json.loads(receive_exactly(control, length))
    return header, [receive_exactly(control, size) for size in header["blobs"]]


def receive_exactly(control: socket.socket, size: int) -> bytes:
    """That many bytes; raises EOFError when the daemon has closed its end."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = control.recv_into(view)
        if count == 0:
            raise EOFError("the daemon has gone")
        view = view[count:]
    return bytes(data)


def send(control: socket.socket, header: dict[str, Any], *blobs: bytes) -> None:
    """The counterpart of `receive`."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    control.sendall(b"".join((struct.pack("!I", len(text)), text, *blobs)))


def warm_up(options: dict[str, Any]) -> None:
    """Imports what programs import, builds the built-ins of `site`, and freezes the heap."""
    for name in PRELOADED:
        importlib.import_module(name)
    site = importlib.import_module("_sitebuiltins")
    for name in ("exit", "quit"):
        setattr(builtins, name, site.Quitter(name, "Ctrl-D (i.e. EOF)"))
    if options["packages"]:
        sys.path += options["packages"]
        importlib.import_module("numpy")
    threading.stack_size(THREAD_STACK_BYTES)  # the default would follow the main thread's big stack
    gc.collect()
    gc.disable()
    gc.freeze()


def serve(control: socket.socket, options: dict[str, Any]) -> None:
    """Answers jobs until the daemon closes the socket."""
    folder = os.path.join(options["scratch"], "run")
    while True:
        header, (code, stdin) = receive(control)
        empty_folder(folder, options["uid"])
        job = Job(header, code, stdin, folder, options["uid"])
        result, stdout, stderr = run(job, control.fileno())
        empty_folder(folder, options["uid"])
        send(control, result, stdout, stderr)


def main() -> None:
    """Entry point; the one argument is JSON: control_fd, scratch, uid (or null), packages."""
    options = json.loads(sys.argv[1])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=options["control_fd"])
    os.set_inheritable(control.fileno(), False)
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        raise RuntimeError("this kernel does not list /proc/<pid>/task/<tid>/children")
    warm_up(options)
    send(control, {"ready": True, "pid": os.getpid()})
    with contextlib.suppress(EOFError, ConnectionError):
        serve(control, options)


if __name__ == "__main__":
    main()
