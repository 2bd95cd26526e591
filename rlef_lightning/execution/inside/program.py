"""code + a forked copy of the warm runner -> the program's process. Nothing here runs in the runner itself.

The order is: own session and descriptors, walls, fresh interpreter, compile, run, the interpreter's end.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import gc
import io
import linecache
import marshal
import os
import sys
import threading
import traceback
import types
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from .ending import FILE_NAME, exit_code, finish, leave, own_traceback, report_uncaught
from .kernel import OPEN_FILES
from .values import decode, encode
from .walls import Walls

STATUS, VALUE, JOB = 3, 4, 5
"""Descriptors of the pipes in the program's process; the second stays where a function is called."""
LETTER_BYTES = 64 << 10
"""Read at a time: what a pipe holds."""
_leave_call, _enter_call = ctypes.pythonapi.Py_LeaveRecursiveCall, ctypes.pythonapi.Py_EnterRecursiveCall
_leave_call.restype, _leave_call.argtypes = None, []
_enter_call.argtypes = [ctypes.c_char_p]
_STREAMS: list[io.IOBase] = []
"""The files of the standard output streams, text and buffers, as long as the process lives."""


class Job:
    """One program with its input, the limits of the run, and the walls around it.

    `files` (their contents follow stdin), `arguments`, `output_file` and `function` of the header are
    optional. A function's arguments, encoded, stand in the place of stdin, which is then empty.
    """

    def __init__(
        self,
        header: dict[str, Any],
        code: bytes,
        stdin: bytes,
        folder: str,
        walls: Walls,
        contents: Sequence[bytes] = (),
    ):
        self.limits: dict[str, Any] = header["limits"]
        self.code = code.decode("utf-8", "surrogatepass")
        self.folder, self.walls, self.uid = folder, walls, walls.uid
        self.files = list(zip(header.get("files", ()), contents, strict=True))
        self.arguments: list[str] = header.get("arguments", [])
        self.output_file: str = header.get("output_file", "")
        self.function: str = header.get("function", "")
        self.call, self.stdin = (stdin, b"") if self.function else (b"", stdin)

    def letter(self) -> bytes:
        """What the program's process needs to know, for `Letter.open`."""
        return marshal.dumps((self.limits, self.code, self.call, self.arguments, self.function))


class Letter(NamedTuple):
    """A job as the program's process gets it."""

    limits: dict[str, Any]
    code: str
    call: bytes
    arguments: list[str]
    function: str

    @staticmethod
    def receive() -> Letter:
        """Waits for the job; raises EOFError when there will be none."""
        parts = []
        while part := os.read(JOB, LETTER_BYTES):
            parts.append(part)
        os.close(JOB)
        return Letter(*marshal.loads(b"".join(parts)))


def program_process(folder: str, walls: Walls, fds: Sequence[int], rules: int, warm: bool) -> NoReturn:
    """What the forked process does until its end; never returns into the template's loop.

    `fds`: the three streams, the write ends for status and value, the read end for the job. `rules`: see
    `Walls.rules`. `warm`: it has its own copies of the pages that programs write.
    """
    code = 1
    try:
        walls.enclose(rules)
        become_program(fds, folder)
        walls.confine()
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # it is the template's
        if not warm:
            rehearse()
        letter = Letter.receive()
        walls.limit(letter.limits)
        code = run_to_the_end(letter)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, own_traceback(error).encode(errors="replace"))
    finally:
        leave(code)


def become_program(fds: Sequence[int], folder: str) -> None:
    """Own session, the three streams, no other descriptor but the pipes (as STATUS, VALUE, JOB).

    The descriptors lie above all of these: see `keep_low_descriptors`.
    """
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(len(fds), OPEN_FILES)  # the runner cannot have others: this is its own limit
    os.chdir(folder)


def keep_low_descriptors() -> None:
    """In the runner: whatever it opens from now on has a number above those of a program's descriptors."""
    while (fd := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= JOB:
        pass
    os.close(fd)


def fresh_interpreter(folder: str) -> None:
    """In the template: makes its interpreter look newly started, as far as the runner could not (`warm_up`).

    To be called from where `program_process` is called.
    """
    sys.path.insert(0, folder)
    discount_calls()


REHEARSAL = "a, b = map(int, '3 4'.split())\nfor i in range(a):\n    f'{a + b}'\n"


def rehearse() -> None:
    """Compiles and runs a little something while there is time.

    Whatever a program does first is slow, as each page that it touches must be copied from the template.
    """
    exec(compile(REHEARSAL, FILE_NAME, "exec", dont_inherit=True), {})


def fresh_namespace(job: Letter) -> dict[str, Any]:
    """The namespace of the program.

    A program is `__main__`; one whose function is called has been imported: what stands behind
    `if __name__ == "__main__"` is not its answer.
    """
    sys.argv[:] = sys.orig_argv[:] = [FILE_NAME, *job.arguments]
    linecache.cache[FILE_NAME] = (len(job.code), None, job.code.splitlines(True), FILE_NAME)
    main = types.ModuleType("solution" if job.function else "__main__")
    main.__dict__.update(__file__=FILE_NAME, __builtins__=builtins, __annotations__={})
    sys.modules[main.__name__] = sys.modules["__main__"] = main
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
    _STREAMS[:] = sys.stdout, sys.stdout.buffer, sys.stderr, sys.stderr.buffer  # type: ignore[assignment]


def raw(fd: int, mode: str) -> io.FileIO:
    """The unbuffered file of a standard stream, with the name that Python gives it."""
    file = io.FileIO(fd, mode, closefd=False)
    file.name = ("<stdin>", "<stdout>", "<stderr>")[fd]
    return file


def run_to_the_end(job: Letter) -> int:
    """The program from its compilation to the interpreter's end; returns the exit code.

    Of a function only the value matters, so that its objects need not end.
    """
    code = execute(job)  # by its return nothing but the modules holds the program's namespace
    return finish(code, "" if job.function else job.code, _STREAMS)


def execute(job: Letter) -> int:
    """Compiles and runs the program; returns its exit code. Bytes on STATUS tell how far it came.

    c = ready to compile, s = does not compile, m = no memory to compile, r = about to run. The pipe
    is closed before the program's first statement, so the program cannot write there.
    """
    namespace = fresh_namespace(job)
    if not job.function:
        os.close(VALUE)
    os.write(STATUS, b"c")
    try:
        program = compile(job.code, FILE_NAME, "exec", dont_inherit=True)
    except MemoryError:
        os.write(STATUS, b"m")
        return 1
    except BaseException as error:
        os.write(STATUS, b"s")
        sys.stderr.write("".join(traceback.format_exception_only(error)))
        return 1
    os.write(STATUS, b"r")
    os.close(STATUS)
    try:
        arguments = decode(job.call) if job.function else ()
        exec(program, namespace)
        if job.function:
            count_calls(2)  # a function is called by a module, whose place `execute` takes now
            send_value(function_of(namespace, job.function)(*arguments))
    except SystemExit as error:
        return exit_code(error)
    except BaseException as error:
        return report_uncaught(error)
    return 0


def discount_calls() -> None:
    """Lets recursion go as deep as under plain Python, though the bootstrap has calls below the program.

    Two calls above the caller's place, in `execute`, calls then count from -1: a module run there by `exec`,
    which counts itself, is where a main module is. Also the compiler's depth depends on that count.
    """
    limit = sys.getrecursionlimit()
    if sys.version_info >= (3, 12):  # calls in C have a count of their own, and cannot be taken off this one
        sys.setrecursionlimit(limit + len(traceback.extract_stack()) + 1)
        return
    while not _allowed(limit=1):
        _leave_call()  # so that the limit that a program asks for stays what it is
    sys.setrecursionlimit(limit)


def _allowed(limit: int) -> bool:
    """Sets the recursion limit, which Python refuses when the calls in progress are as many."""
    try:
        sys.setrecursionlimit(limit)
    except RecursionError:
        return False
    return True


def count_calls(number: int) -> None:
    """Takes back so much of `discount_calls`."""
    for _ in range(number):
        _enter_call(b"")


def function_of(namespace: dict[str, Any], name: str) -> Any:
    """The function that the solution should define; without it the call fails as it would in Python."""
    if name not in namespace:
        raise NameError(f"name {name!r} is not defined")
    return namespace[name]


def send_value(value: object) -> None:
    """Writes the function's value to its pipe.

    The program could write there as well: it would only give another answer of its own.
    """
    view = memoryview(encode(value))
    while view:
        view = view[os.write(VALUE, view) :]
    os.close(VALUE)
