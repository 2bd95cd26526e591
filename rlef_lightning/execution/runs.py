"""One run of a program as the daemon asks for it, and what the kernel and the trusted runner say about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlef_lightning.types import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a run has besides code, stdin and limits; most have nothing."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    """Put into the empty scratch folder beforehand; a name that ends with "/" is a folder."""
    arguments: tuple[str, ...] = ()
    """sys.argv after the program's name."""
    output_file: str = ""
    """The answer is read from this file of the scratch folder; empty: from stdout."""
    function: str = ""
    """The answer is this function's value; stdin then holds its encoded arguments."""

    @property
    def header(self) -> Mapping[str, Any]:
        """The fields that are not empty, for the runner."""
        fields = {
            "files": list(self.files), "arguments": self.arguments, "output_file": self.output_file,
            "function": self.function,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value}

    @property
    def contents(self) -> tuple[bytes, ...]:
        """Of the files, in the order of their names in the header."""
        return tuple(self.files.values())


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Example: Run(code=b"print(7)", stdin=b"", limits=Limits())"""

    code: bytes
    stdin: bytes
    limits: Limits
    extras: Extras = NO_EXTRAS
    alone: bool = False
    """True: no other program of the daemon runs meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the kernel and the trusted runner say about one run; nothing that the program claims.

    Example: RunFacts(stage="r", status=0, stopped=None, cpu_s=0.01, stdout=b"7\\n", ...)
    """

    stage: str
    """How far it came: "c" compiling, "s" does not compile, "m" no memory to compile, "r" was run."""
    status: int
    """Exit code, or minus the number of the signal that ended it."""
    stopped: str | None
    """The limit for which it was ended: "cpu", "wall", "output", "processes", "memory"; None: by itself."""
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int
    strays: int
    """Processes that outlived the main one, and were killed."""
    stdout: bytes
    """The answer: what was printed, the output file's content, or the function's encoded value."""
    stderr: bytes
    starved_s: float = 0.0
    """After "wall": seconds for which one of its processes was ready to run and no processor was free, of the
    one that waited longest."""


Runner = Callable[[Run], Awaitable[RunFacts]]
"""Makes one run; raises ExecutorError when the sandbox fails."""
