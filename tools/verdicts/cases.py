"""Labelled programs -> the executor's verdicts -> what agrees and what does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlef_lightning.execution import Executor
from rlef_lightning.execution.executor import STDIO
from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase, Verdict

AT_ONCE = 4
"""Programs in judgement at the same time, per worker."""
WALL_S = 900.0
"""No labelled program sleeps: CPU time decides, and the report can be made on a busy machine."""
REJECTED = frozenset(Verdict) - {Verdict.ACCEPTED, Verdict.SKIPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One program with its label."""

    name: str
    code: str
    tests: Sequence[TestCase]
    wanted: frozenset[Verdict]
    """Any of these as the first failure; only ACCEPTED: none."""
    limits: Limits
    rule: OutputRule
    interface: Interface = STDIO

    @property
    def good(self) -> bool:
        """True for a program that is labelled as right."""
        return Verdict.ACCEPTED in self.wanted


@dataclass(slots=True, kw_only=True)
class Suite:
    """The cases of one set of data."""

    name: str
    cases: Sequence[Case]
    exceptions: dict[str, str] = field(default_factory=dict)
    """Names of cases whose label is not to be expected, with the reason."""
    notes: Sequence[str] = ()
    """What of the data is left out, or judged otherwise than one would think."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A case and what became of it."""

    suite: str
    case: Case
    verdict: Verdict
    runs: int
    cpu_s: float
    excused: str
    """Why the label is not to be expected; empty for most."""
    detail: str

    @property
    def agrees(self) -> bool:
        """True when the verdict is one of those that the label stands for."""
        return self.verdict in self.case.wanted


async def judge_suite(executor: Executor, suite: Suite, at_once: int) -> tuple[list[Judged], float]:
    """(every case in order, seconds); each up to its first failure, as in training."""
    free, started = asyncio.Semaphore(at_once), time.monotonic()

    async def one(case: Case) -> Judged:
        async with free:
            limits = replace(case.limits, wall_s=WALL_S)
            report = await executor.judge(
                case.code, case.tests, limits=limits, rule=case.rule, interface=case.interface,
                stop_at_first_failure=True,
            )  # fmt: skip
        return judged(suite, case, report)

    return list(await asyncio.gather(*map(one, suite.cases))), time.monotonic() - started


def judged(suite: Suite, case: Case, report: Report) -> Judged:
    """What a report says about a case."""
    runs = [result for result in report.results if result.verdict is not Verdict.SKIPPED]
    last = f"test {len(runs)} of {len(case.tests)}: {runs[-1].stderr[-200:] or runs[-1].stdout[:100]!r}"
    return Judged(
        suite=suite.name,
        case=case,
        verdict=report.first_failure or Verdict.ACCEPTED,
        runs=len(runs),
        cpu_s=sum(result.cpu_s for result in runs),
        excused=suite.exceptions.get(case.name, ""),
        detail="" if report.passed else last,
    )
