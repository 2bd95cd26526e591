"""Runs of a solution -> verdicts -> Report. The order of tests and the order of verdicts live here.

Does not start anything: whoever calls passes in how one run is made.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution.answers import Answer, answer_of, done_aside, readable, run_of
from rlef_lightning.execution.checking import accepts
from rlef_lightning.execution.executor import STDIO
from rlef_lightning.execution.runs import Run, RunFacts, Runner
from rlef_lightning.execution.second_looks import (
    STARVED_RUNS,
    STRETCH,
    killed_by_nobody,
    near_the_time_limit,
    nearly_full,
    was_starved,
)
from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase, TestResult, Verdict

_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGKILL}
_OUT_OF_MEMORY = -signal.SIGUSR2
"""Stands for an uncaught MemoryError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What is judged, and by what. Example: Solution(code=b"print(7)", limits=Limits(), rule=OutputRule())"""

    code: bytes
    limits: Limits
    rule: OutputRule
    interface: Interface = STDIO


async def judge_tests(
    runner: Runner, solution: Solution, tests: Sequence[TestCase], *, stop_at_first_failure: bool, chars: int
) -> Report:
    """Runs the tests, all at once or in order up to the first failure; `chars` cuts what is reported."""
    judgement = Judgement(runner, solution, chars)
    if not stop_at_first_failure:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(judgement.result(test)) for test in tests]
        return Report(results=tuple(task.result() for task in tasks))
    results: list[TestResult] = []
    for test in tests:
        failed = bool(results) and not results[-1].passed
        results.append(SKIPPED if failed else await judgement.result(test))
    return Report(results=tuple(results))


SKIPPED = TestResult(
    verdict=Verdict.SKIPPED, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0
)


def at_most(count: int | None, runner: Runner) -> Runner:
    """The runner, with so many runs at a time; null: as many as are asked for."""
    if count is None:
        return runner
    free = asyncio.Semaphore(count)

    async def bounded(run: Run) -> RunFacts:
        async with free:
            return await runner(run)

    return bounded


@dataclass(slots=True)
class Judgement:
    """One solution on its way through its tests."""

    runner: Runner
    solution: Solution
    chars: int
    _too_slow: bool = False
    """A time-out near the limit was confirmed; the next ones are believed."""
    _confirming: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def result(self, test: TestCase) -> TestResult:
        """One test run and judged: the head of its answer, the tail of its errors."""
        chars, limits = self.chars, self.solution.limits
        facts = await self._facts(test)
        answer = await done_aside(len(facts.stdout), lambda: answer_of(facts, self.solution.interface))
        return TestResult(
            verdict=failure(facts, limits) or await self._opinion(test, answer, len(facts.stdout)),
            stdout=answer.shown(chars),
            stderr=readable(facts.stderr[max(0, len(facts.stderr) - 4 * chars) :])[-chars:],
            cpu_s=facts.cpu_s,
            wall_s=facts.wall_s,
            peak_memory_bytes=facts.peak_memory_bytes,
        )

    async def _facts(self, test: TestCase) -> RunFacts:
        """Of a run that can be believed; see second_looks.py."""
        solution, limits = self.solution, self.solution.limits
        stretched = replace(limits, cpu_s=STRETCH * limits.cpu_s)
        run = run_of(solution.code, test, stretched, solution.interface)
        facts = await self.runner(run)
        if killed_by_nobody(facts, limits):
            facts = await self.runner(run)
        if near_the_time_limit(facts, limits):
            facts = await self._confirmed(run, facts)
        return facts

    async def _confirmed(self, run: Run, facts: RunFacts) -> RunFacts:
        """The facts of a run alone; those of the first once the solution is known as too slow.

        Raises ExecutorError when the program gets no processor: that says nothing about it.
        """
        limits = self.solution.limits
        async with self._confirming:
            if self._too_slow and not was_starved(facts, limits):
                return facts
            for _ in range(STARVED_RUNS):
                facts = await self.runner(replace(run, alone=True))
                if not was_starved(facts, limits):
                    self._too_slow |= failure(facts, limits) is Verdict.TIME_LIMIT
                    return facts
        raise ExecutorError(
            f"a program waited {facts.starved_s:.3g} of {facts.wall_s:.3g} s for a processor, {STARVED_RUNS}"
            " times, with no other program of the executor beside it: the machine is overloaded. Lower"
            " workers, or raise the problem's wall_s"
        )

    async def _opinion(self, test: TestCase, answer: Answer, size: int) -> Verdict:
        """Of an answer that was given within all limits."""
        rule = self.solution.rule
        if rule.checker:
            text = await done_aside(size, answer.text)
            right = text is not None and await accepts(self.runner, rule.checker, test, text)
        else:
            size = max(size, len(test.expected_stdout))
            right = await done_aside(size, lambda: answer.matches(test.expected_stdout, rule))
        return Verdict.ACCEPTED if right else Verdict.WRONG_ANSWER


def failure(facts: RunFacts, limits: Limits) -> Verdict | None:
    """The first that applies: output, memory, time limit, run-time, syntax error; None: none of them."""
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
    return None


def ran_out_of_memory(facts: RunFacts, limits: Limits) -> bool:
    """True for memory over the limit, an uncaught MemoryError, or a crash with the memory nearly used up."""
    if facts.stopped == "memory":
        return True
    if facts.stopped is not None:
        return False
    if facts.stage == "m" or facts.status == _OUT_OF_MEMORY:
        return True
    in_time = facts.cpu_s <= limits.cpu_s  # the backup limit on CPU kills, too
    return in_time and facts.status in _CRASHES and nearly_full(facts, limits)
