"""A program under plain Python, and in the bootstrap of the sandbox without its walls: what came of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import rlef_lightning.execution

BOOTSTRAP = """
import gc, os, sys
sys.path.insert(0, sys.argv.pop(1))
from inside import ending, program
end = os.open(os.devnull, os.O_WRONLY)
for fd in (program.STATUS, program.VALUE):
    os.dup2(end, fd)
program.replace_streams()
gc.collect()
gc.freeze()
ending.leave(program.run_to_the_end(program.Letter({}, sys.argv[1], b"", [], "")))
"""
EXECUTION = Path(rlef_lightning.execution.__file__).parent
"""From here a runner loads its part, without the rest of the package and without `site`."""


class Ended(NamedTuple):
    """What a program left: its exit code, what it printed, and what it wrote to the file o.txt."""

    status: int
    stdout: str
    file: str | None


def in_plain_python(code: str, folder: Path) -> Ended:
    """The reference."""
    (folder / "solution.py").write_text(code)
    return _ended(["-s", "-P", "solution.py"], folder)


def in_the_bootstrap(code: str, folder: Path) -> Ended:
    """The same through the last part of the sandbox's own code."""
    return _ended(["-s", "-P", "-S", "-c", BOOTSTRAP, str(EXECUTION), code], folder)


def _ended(arguments: list[str], folder: Path) -> Ended:
    answer = folder / "o.txt"
    answer.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={}, text=True, check=False,
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, answer.read_text() if answer.exists() else None)
