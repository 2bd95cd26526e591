"""What is computed next to the event loop: results and errors come back, and the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rlef_lightning.execution.aside import LARGE, aside
from rlef_lightning.execution.judge import Solution, judge_tests
from rlef_lightning.execution.runs import Run, RunFacts
from rlef_lightning.types import Limits, OutputRule, Report, TestCase


def test_results_and_errors_come_back() -> None:
    assert asyncio.run(aside(lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(lambda: 1 // 0))
    assert asyncio.run(aside(lambda: 8)) == 8  # the thread has survived the error, and another loop


def test_the_loop_goes_on_meanwhile() -> None:
    async def main() -> bool:
        event = threading.Event()
        waiting = asyncio.create_task(aside(lambda: event.wait(30)))
        await asyncio.sleep(0)
        event.set()  # would never be reached if the loop waited
        return await waiting

    assert asyncio.run(main())


def test_a_cancelled_one_harms_no_other() -> None:
    async def main() -> int:
        event = threading.Event()
        first = asyncio.create_task(aside(lambda: event.wait(30)))
        second = asyncio.create_task(aside(lambda: 7))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        event.set()
        return await second

    assert asyncio.run(main()) == 7


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("right", [True, False])
def test_outputs_of_any_size_are_judged_alike(size: int, right: bool) -> None:
    async def runner(run: Run) -> RunFacts:
        return RunFacts(
            stage="r", status=0, stopped=None, cpu_s=0.1, wall_s=0.1, peak_memory_bytes=1, strays=0,
            stdout=b"7 " * size, stderr=b"",
        )  # fmt: skip

    async def main() -> Report:
        tests = [TestCase(stdin="", expected_stdout="7\n" * (size if right else size - 1))]
        solution = Solution(code=b"", limits=Limits(), rule=OutputRule())
        return await judge_tests(runner, solution, tests, stop_at_first_failure=False, chars=4)

    report = asyncio.run(main())
    assert report.passed is right
    assert report.results[0].stdout == "7 7 "
