"""A program under plain Python, and in the bootstrap of the sandbox without its walls: what came of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

BOOTSTRAP = """
import gc, os, sys
from rlef_lightning.execution.inside import ending, program
end = os.open(os.devnull, os.O_WRONLY)
for fd in (program.STATUS, program.VALUE):
    os.dup2(end, fd)
program.replace_streams()
gc.collect()
gc.freeze()
ending.leave(program.run_to_the_end(program.Letter({}, sys.argv[1], b"", [], "")))
"""


class Ended(NamedTuple):
    """What a program left: its exit code, what it printed, and what it wrote to the file o.txt."""

    status: int
    stdout: str
    file: str | None


def in_plain_python(code: str, folder: Path) -> Ended:
    """The reference."""
    (folder / "solution.py").write_text(code)
    return _ended(["-s", "-P", "solution.py"], folder, {})


def in_the_bootstrap(code: str, folder: Path) -> Ended:
    """The same through the last part of the sandbox's own code."""
    root = str(Path(__file__).parents[2])
    return _ended(["-s", "-P", "-c", BOOTSTRAP, code], folder, {"PYTHONPATH": root})


def _ended(arguments: list[str], folder: Path, environment: dict[str, str]) -> Ended:
    answer = folder / "o.txt"
    answer.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, check=False,
        stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, answer.read_text() if answer.exists() else None)
