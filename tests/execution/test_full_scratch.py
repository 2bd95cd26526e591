"""Programs that use up their scratch file system, in every form: no runner is lost, no later run fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sandboxing import BACKENDS, Sandbox

pytestmark = [pytest.mark.every_backend, pytest.mark.slow]

WAYS = {
    "files": "while True: os.close(os.open(str(next(n)), os.O_CREAT | os.O_WRONLY))",
    "folders": "while True: os.mkdir(str(next(n)))",
    "nested folders": "while True: os.mkdir('d'); os.chdir('d')",
    "links": "open('0', 'w').close()\n    while True: os.link('0', str(next(n) + 1))",
    "symbolic links": "while True: os.symlink('x' * 4000, str(next(n)))",
    "pipes": "while True: os.mkfifo(str(next(n)))",
    "bytes": "while True: open(str(next(n)), 'wb').write(bytes(20 << 20))",
    "locked folders": "while True: os.mkdir(str(next(n)), 0)",
    "nested and locked": "while True: os.mkdir('d'); os.chdir('d'); os.chmod('.', 0o300)",
}
LOCK = "\nos.chmod(home, 0)\nprint(7)"
HONEST = "import os\nopen('file', 'w').write('7')\nprint(open('file').read(), os.listdir())"


def fill(way: str) -> str:
    """A program that goes on until there is no room, then closes its folder to all."""
    return (
        "import itertools, os\nn, home = itertools.count(), os.getcwd()\n"
        f"try:\n    {WAYS[way]}\nexcept OSError as error: assert error.errno == 28, error{LOCK}"
    )


@pytest.fixture(scope="module")
def strict(backend_name: str, loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """An executor that repeats nothing, with one worker: a lost runner fails the next run."""
    executor = BACKENDS[backend_name](workers=1, retries=0)
    yield Sandbox(executor, loop)
    loop.run_until_complete(executor.close())


@pytest.mark.parametrize("way", WAYS)
def test_a_full_scratch_folder_costs_no_runner(strict: Sandbox, way: str) -> None:
    runners = strict.runners()
    for _ in range(2):
        result = strict.run(fill(way), expected="7")
        assert result.passed, result
        result = strict.run(HONEST, expected="7 ['file']")
        assert result.passed, result
    assert strict.runners() == runners


def test_many_full_folders_in_a_row_are_verdicts(strict: Sandbox) -> None:
    runners = strict.runners()
    assert strict.judge(fill("files"), [("", "7")] * 6).passed
    assert strict.runners() == runners
