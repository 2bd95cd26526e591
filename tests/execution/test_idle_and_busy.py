"""The same program, 200 times on the machine as it is and 200 times beside busy processes: one verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sandboxing import BACKENDS, LIMITS, Sandbox, why_not

from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.types import Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TIMES = 200
SPIN = "import time\nend = time.process_time() + 0.02\nwhile time.process_time() < end: pass\n"
PROGRAMS = {
    "computes": (SPIN + "print(7)", Verdict.ACCEPTED),
    "answers wrongly": (SPIN + "print(8)", Verdict.WRONG_ANSWER),
    "fails": ("print(7)\n1 / 0", Verdict.RUNTIME_ERROR),
    "loops": ("print(7, flush=True)\nwhile True: pass", Verdict.TIME_LIMIT),
    "takes memory": ("print(7)\nx = bytearray(1 << 40)", Verdict.MEMORY_LIMIT),
    "prints without end": ("while True: print('7' * 1000)", Verdict.OUTPUT_LIMIT),
}
LIMITS_HERE = {
    name: replace(LIMITS, cpu_s=0.05 if name == "loops" else 2.0, wall_s=600.0, output_bytes=1 << 20)
    for name in PROGRAMS
}
"""CPU time decides: "computes" uses a hundredth of its own, and wall time is out of everyone's reach."""
JAILS = [name for name, backend in BACKENDS.items() if backend is not SubprocessExecutor]


@pytest.fixture(scope="module", params=["subprocess", "a jail"])
def steady(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Sandbox]:
    """An executor of subprocess, and one of the strongest jail that is installed."""
    names = ["subprocess"] if request.param == "subprocess" else JAILS
    found = next((name for name in names if not why_not(name)), None)
    if found is None:
        pytest.skip("; ".join(map(why_not, names)))
    sandbox = Sandbox(BACKENDS[found](workers=2), loop)
    yield sandbox
    loop.run_until_complete(sandbox.executor.close())


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """A process for each processor that never rests, and ends by itself should nobody end it."""
    code = "import time\nend = time.monotonic() + 1200\nwhile time.monotonic() < end: pass"
    count = min(os.cpu_count() or 1, 4)
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_verdict_is_the_same_200_times_idle_and_200_times_busy(steady: Sandbox, name: str) -> None:
    code, verdict = PROGRAMS[name]
    for beside in (contextlib.nullcontext, busy):
        with beside():
            report = steady.judge(code, [("", "7")] * TIMES, LIMITS_HERE[name])
        assert Counter(result.verdict for result in report.results) == {verdict: TIMES}
    steady.assert_healthy()
