"""code + a forked copy of the warm runner -> the program's process. Nothing here runs in the runner itself.

The order is: own session and descriptors, walls, fresh interpreter, compile, run, the interpreter's end.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import fcntl
import gc
import io
import linecache
import os
import random
import signal
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

from .kernel import OPEN_FILES
from .walls import Walls

FILE_NAME = "solution.py"
SIGNAL_OUT_OF_MEMORY = signal.SIGUSR2
"""How the bootstrap says "uncaught MemoryError". A program may fake it; that only renames its failure."""


class Job:
    """One program with its input, the limits of the run, and the walls around it."""

    def __init__(self, header: dict[str, Any], code: bytes, stdin: bytes, folder: str, walls: Walls):
        self.limits: dict[str, Any] = header["limits"]
        self.code = code.decode("utf-8", "surrogatepass")
        self.stdin, self.folder, self.walls, self.uid = stdin, folder, walls, walls.uid


def program_process(job: Job, fds: tuple[int, int, int], status: int) -> NoReturn:
    """What the forked process does until its end; never returns into the runner's loop."""
    code = 1
    try:
        job.walls.enclose()
        status = become_program(fds, status, job.folder)
        job.walls.confine(job.limits)
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


def become_program(fds: tuple[int, int, int], status: int, folder: str) -> int:
    """Own session, the three streams, no other descriptor but the status pipe (moved to 3)."""
    os.setsid()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (*fds, status)]
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(4, OPEN_FILES)  # the runner cannot have others: this is its own limit
    os.chdir(folder)
    return 3


def fresh_interpreter(folder: str, code: str) -> dict[str, Any]:
    """Makes the forked interpreter look newly started; returns the namespace of its `__main__`."""
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]
    sys.argv[:] = sys.orig_argv[:] = [FILE_NAME]
    sys.path.insert(0, folder)
    random.seed(0)  # the same program gets the same verdict each time
    linecache.cache[FILE_NAME] = (len(code), None, code.splitlines(True), FILE_NAME)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=FILE_NAME, __builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    gc.enable()
    return main.__dict__


def replace_streams() -> None:
    """Opens the three streams as Python does at its start for a file and two pipes.

    Done once, in the runner: making them in each fork would touch, and so copy, many pages (0.2 ms).
    The streams ask what they stand on when they are made, so 0 to 2 are of the right kind meanwhile.
    """
    streams = {
        "stdin": io.TextIOWrapper(io.BufferedReader(raw(0, "r")), "utf-8", "surrogateescape"),
        "stdout": io.TextIOWrapper(io.BufferedWriter(raw(1, "w")), "utf-8", "surrogateescape", "\n"),
        "stderr": io.TextIOWrapper(io.BufferedWriter(raw(2, "w")), "utf-8", "backslashreplace", "\n", True),
    }
    for name, stream in streams.items():
        stream.mode = stream.buffer.raw.mode[0]  # type: ignore[attr-defined]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def raw(fd: int, mode: str) -> io.FileIO:
    """The unbuffered file of a standard stream, with the name that Python gives it."""
    file = io.FileIO(fd, mode, closefd=False)
    file.name = ("<stdin>", "<stdout>", "<stderr>")[fd]
    return file


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
