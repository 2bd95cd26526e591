"""The seam between whoever has a solution and whatever runs it: code + tests -> Report.

Rollouts see this protocol only. A class that fulfils it needs a cheap constructor, which starts
nothing: configurations build it long before a run begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rlef_lightning.types import Interface, Limits, OutputRule, Report, TestCase

STDIO = Interface()
"""A program that reads stdin and prints its answer."""


@runtime_checkable
class Executor(Protocol):
    """Judges untrusted programs."""

    async def start(self) -> None:
        """Makes ready, proves the promised walls, or raises ExecutorError. Repeating it does nothing."""

    async def judge(
        self,
        code: str,
        tests: Sequence[TestCase],
        *,
        limits: Limits,
        rule: OutputRule,
        stop_at_first_failure: bool,
        interface: Interface = STDIO,
    ) -> Report:
        """Runs `code` once per test; result i belongs to test i. Safe to call many times at once.

        With `stop_at_first_failure` the tests run in order, and those after the first failure are
        SKIPPED. Raises ExecutorError for an empty list of tests, and when the sandbox fails
        after its retries; a bad program never raises.
        """
        ...

    async def close(self) -> None:
        """Ends every process that was started. Repeating it does nothing; `start` may follow."""
