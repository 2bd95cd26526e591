"""The program's three streams: made as Python makes them at its start, emptied as at its end."""

from __future__ import annotations

import contextlib
import io
import sys


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


def flush() -> None:
    """Empties the buffers of the standard streams, whatever the program has made of them."""
    for name in ("stdout", "stderr"):
        with contextlib.suppress(BaseException):
            getattr(sys, name).flush()
