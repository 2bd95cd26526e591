"""How a program ended -> its exit code, with all that CPython does between the last statement and the exit.

The order is that of Py_FinalizeEx (CPython 3.11, Python/pylifecycle.c): threads, atexit, the standard
streams, then the program's objects, whose end may write more: files that nobody closed, `__del__`, suspended
generators.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import NoReturn

FILE_NAME = "solution.py"
SIGNAL_OUT_OF_MEMORY = signal.SIGUSR2
"""How the bootstrap says "uncaught MemoryError". A program may fake it; that only renames its failure."""
FLUSH_FAILED = 120
"""CPython's exit code when the standard streams could not be flushed at the end."""
_ENDINGS = ("open", "File", "IO", "Buffered", "detach", "__del__", "__exit__", "finally", "weakref")
"""Without one of these words in a program, the end of its objects does nothing that can be seen."""
_WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair)
"""Kinds of files that hold data back, those that write into others first."""
_exit, _collect, _run_atexit = (
    os._exit,
    gc.collect,
    atexit._run_exitfuncs,
)  # a program may replace them in their modules


def exit_code(error: SystemExit) -> int:
    """What CPython makes of the argument of sys.exit(): handle_system_exit in Python/pythonrun.c."""
    value: object = error
    with contextlib.suppress(BaseException):
        value = error.code
    if value is None:
        return 0
    if isinstance(value, int):
        number = int.__index__(value)
        return number & 0xFF if -(1 << 63) <= number < 1 << 63 else 255  # no C long: -1
    with contextlib.suppress(BaseException):
        sys.stderr.write(str(value))
    with contextlib.suppress(BaseException):
        sys.stderr.write("\n")
    return 1


def report_uncaught(error: BaseException) -> int:
    """Prints the traceback as Python would; returns the exit code, or the signal to end by, as a negative.

    An uncaught MemoryError ends the process right here.
    """
    code = 1
    try:
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            sys.stderr.write(own_traceback(error))
    except SystemExit as other:
        code = exit_code(other)
    except BaseException as other:
        with contextlib.suppress(BaseException):
            sys.stderr.write(f"Error in sys.excepthook:\n{own_traceback(other)}")
            sys.stderr.write(f"\nOriginal exception was:\n{own_traceback(error)}")
    if isinstance(error, MemoryError):
        flush_streams()
        leave(-SIGNAL_OUT_OF_MEMORY)
    return -signal.SIGINT if code and isinstance(error, KeyboardInterrupt) else code


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


def finish(code: int, program: str, streams: Iterable[io.IOBase]) -> int:
    """The interpreter's end; returns the exit code that it makes of the program's own. Never raises.

    `program`: its text, empty when the end of its objects does not matter. `streams`: the files of the
    standard streams, which a program may have taken out of `sys`.
    """
    with contextlib.suppress(BaseException):  # Python, too, calls what fails here ignored
        threading._shutdown()  # type: ignore[attr-defined]
    _run_atexit()
    if not flush_streams() and code >= 0:
        code = FLUSH_FAILED
    if any(word in program for word in _ENDINGS):
        with contextlib.suppress(BaseException):
            end_objects()
    for stream in streams:  # in CPython, too, what fails from here on does not change the exit code
        _flush(stream)
    return code


def flush_streams() -> bool:
    """Flushes sys.stdout and sys.stderr, whatever the program has made of them; False when that fails."""
    flushed = [_is_closed(name) or _flush(getattr(sys, name)) for name in ("stdout", "stderr")]
    return all(flushed)


def _is_closed(name: str) -> bool:
    stream = getattr(sys, name, None)
    with contextlib.suppress(BaseException):
        return stream is None or bool(stream.closed)
    return False


def _flush(stream: io.IOBase) -> bool:
    try:
        stream.flush()
    except BaseException:
        return False
    return True


def end_objects() -> None:
    """Lets go of the program's namespace, and of all that hangs on it.

    The first collection puts each file before the one that it writes to: the collector closes unreachable
    files in the order in which it found the reachable ones. CPython begins its end with one as well.
    """
    _collect()
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, getattr(sys, f"__{name}__", None))
    for name in ("__main__", "solution"):
        sys.modules.pop(name, None)
    _collect()
    end_survivors()


def end_survivors() -> None:
    """Flushes the files and finalises the objects that others still hold: a cache of `typing`, for instance.

    CPython clears those modules as well, which would take longer than most programs.
    """
    objects = gc.get_objects()  # those of the warm interpreter are frozen and not among them
    for kind in _WRITERS:
        for file in objects:
            if isinstance(file, kind):
                _flush(file)
    for one in objects:
        kind = type(one)
        if (
            kind.__module__ in ("__main__", "solution")
            and hasattr(kind, "__del__")
            and not gc.is_finalized(one)
        ):
            with contextlib.suppress(BaseException):
                kind.__del__(one)


def leave(code: int) -> NoReturn:
    """Ends the process with that exit code, or by that signal when it is negative."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    _exit(code)
