"""RunFacts of each test -> verdicts -> Report. The order of tests and the order of verdicts live here.

Does not start anything: whoever calls passes in how one test is run.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rlef_lightning.execution.aside import LARGE, aside
from rlef_lightning.execution.compare import matches
from rlef_lightning.types import Limits, OutputRule, Report, TestCase, TestResult, Verdict

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


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
    """The limit for which the runner ended it: "cpu", "wall", "output", "processes"; None: by itself."""
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int
    strays: int
    """Processes that outlived the main one, and were killed."""
    stdout: bytes
    stderr: bytes


Run = Callable[[str], Awaitable[RunFacts]]
"""Runs the solution on one stdin."""

_OUT_OF_MEMORY = {-signal.SIGUSR2, -signal.SIGKILL}
"""SIGUSR2 stands for an uncaught MemoryError; a SIGKILL that is not ours is the kernel's, out of memory."""
_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}


async def judge_tests(
    run: Run,
    tests: Sequence[TestCase],
    *,
    limits: Limits,
    rule: OutputRule,
    stop_at_first_failure: bool,
    chars: int,
) -> Report:
    """Runs the tests, all at once or in order up to the first failure; `chars` cuts what is reported."""

    async def result(test: TestCase) -> TestResult:
        facts = await run(test.stdin)
        judged = partial(test_result, facts, test.expected_stdout, limits, rule, chars)
        small = len(facts.stdout) + len(test.expected_stdout) < LARGE
        return judged() if small else await aside(judged)

    if not stop_at_first_failure:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(result(test)) for test in tests]
        return Report(results=tuple(task.result() for task in tasks))
    results: list[TestResult] = []
    for test in tests:
        failed = bool(results) and not results[-1].passed
        results.append(SKIPPED if failed else await result(test))
    return Report(results=tuple(results))


SKIPPED = TestResult(
    verdict=Verdict.SKIPPED, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0
)


def test_result(facts: RunFacts, expected: str, limits: Limits, rule: OutputRule, chars: int) -> TestResult:
    """One run judged: the head of its output, the tail of its errors."""
    return TestResult(
        verdict=verdict(facts, expected, limits, rule),
        stdout=_readable(facts.stdout[: 4 * chars])[:chars],
        stderr=_readable(facts.stderr[max(0, len(facts.stderr) - 4 * chars) :])[-chars:],
        cpu_s=facts.cpu_s,
        wall_s=facts.wall_s,
        peak_memory_bytes=facts.peak_memory_bytes,
    )


def verdict(facts: RunFacts, expected: str, limits: Limits, rule: OutputRule) -> Verdict:
    """The first that applies: output, memory and time limit, run-time and syntax error, wrong, accepted."""
    if facts.stopped == "output":
        return Verdict.OUTPUT_LIMIT
    if ran_out_of_memory(facts, limits):
        return Verdict.MEMORY_LIMIT
    if facts.stopped in ("cpu", "wall") or facts.cpu_s > limits.cpu_s or facts.status == -signal.SIGXCPU:
        return Verdict.TIME_LIMIT
    if facts.stage == "s":  # it never ran: its exit code says nothing
        return Verdict.SYNTAX_ERROR
    if facts.stopped is not None or facts.status != 0 or facts.stage != "r":
        return Verdict.RUNTIME_ERROR
    return Verdict.ACCEPTED if matches(facts.stdout, expected, rule) else Verdict.WRONG_ANSWER


def ran_out_of_memory(facts: RunFacts, limits: Limits) -> bool:
    """True for an uncaught MemoryError, the kernel's killer, or a crash with the memory nearly used up."""
    if facts.stopped is not None or facts.cpu_s > limits.cpu_s:  # the backup limit on CPU kills, too
        return False
    if facts.stage == "m" or facts.status in _OUT_OF_MEMORY:
        return True
    return facts.status in _CRASHES and facts.peak_memory_bytes > 0.9 * limits.memory_bytes


def _readable(output: bytes) -> str:
    """Text for people and prompts. Addresses differ from process to process: they would make a run
    impossible to repeat, and they mean nothing to a reader."""
    return _ADDRESS.sub(" at 0x...", output.decode(errors="replace"))
