"""The order of verdicts on made-up facts, and the order of tests; no process is started."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

import pytest

from rlef_lightning.execution.fair import FairLender
from rlef_lightning.execution.judge import RunFacts, judge_tests, verdict
from rlef_lightning.execution.judge import test_result as judged
from rlef_lightning.types import Limits, OutputRule, Report, TestCase, Verdict

LIMITS = Limits(cpu_s=1.0)
GOOD = RunFacts(
    stage="r", status=0, stopped=None, cpu_s=0.1, wall_s=0.1, peak_memory_bytes=1 << 20, strays=0,
    stdout=b"7\n", stderr=b"",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, Verdict.ACCEPTED),
        ({"stdout": b"8\n"}, Verdict.WRONG_ANSWER),
        ({"stage": "s", "status": 1}, Verdict.SYNTAX_ERROR),
        ({"status": 1}, Verdict.RUNTIME_ERROR),
        ({"status": -signal.SIGSEGV}, Verdict.RUNTIME_ERROR),
        ({"stage": "c"}, Verdict.RUNTIME_ERROR),  # the compiler itself crashed
        ({"stopped": "processes", "status": -signal.SIGKILL}, Verdict.RUNTIME_ERROR),
        ({"stopped": "cpu", "status": -signal.SIGKILL}, Verdict.TIME_LIMIT),
        ({"stopped": "wall", "status": -signal.SIGKILL}, Verdict.TIME_LIMIT),
        ({"cpu_s": 1.01}, Verdict.TIME_LIMIT),
        ({"cpu_s": 2.1, "status": -signal.SIGKILL}, Verdict.TIME_LIMIT),  # the kernel's backup limit
        ({"status": -signal.SIGXCPU}, Verdict.TIME_LIMIT),
        ({"status": -signal.SIGUSR2}, Verdict.MEMORY_LIMIT),
        ({"status": -signal.SIGKILL}, Verdict.MEMORY_LIMIT),
        ({"stage": "m", "status": 1}, Verdict.MEMORY_LIMIT),
        ({"status": -signal.SIGSEGV, "peak_memory_bytes": LIMITS.memory_bytes}, Verdict.MEMORY_LIMIT),
        ({"stopped": "output", "status": -signal.SIGKILL, "cpu_s": 9.0}, Verdict.OUTPUT_LIMIT),
        ({"stage": "s", "status": 1, "cpu_s": 1.5}, Verdict.TIME_LIMIT),
    ],
)
def test_first_verdict_that_applies(changes: dict[str, object], wanted: Verdict) -> None:
    assert verdict(replace(GOOD, **changes), "7\n", LIMITS, OutputRule()) is wanted


def test_reports_keep_the_head_of_stdout_and_the_tail_of_stderr() -> None:
    facts = replace(GOOD, stdout="é".encode() * 100 + b"\xff", stderr=b"first" + b"x" * 50 + "ü".encode())
    result = judged(facts, "7", LIMITS, OutputRule(), 10)
    assert result.stdout == "é" * 10
    assert result.stderr == "x" * 9 + "ü"


def judge(outputs: list[bytes], stop: bool) -> tuple[Report, list[str]]:
    """Judges tests 0, 1, ... whose right answer is 7; also the inputs in the order of their runs."""
    order: list[str] = []

    async def run(stdin: str) -> RunFacts:
        order.append(stdin)
        return replace(GOOD, stdout=outputs[int(stdin)])

    tests = [TestCase(stdin=str(i), expected_stdout="7") for i in range(len(outputs))]
    report = asyncio.run(
        judge_tests(run, tests, limits=LIMITS, rule=OutputRule(), stop_at_first_failure=stop, chars=99)
    )
    return report, order


def test_stops_at_the_first_failure() -> None:
    report, order = judge([b"7", b"8", b"7"], stop=True)
    assert order == ["0", "1"]
    assert [r.verdict for r in report.results] == [Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.SKIPPED]
    assert report.first_failure is Verdict.WRONG_ANSWER


def test_runs_all_tests_otherwise() -> None:
    report, order = judge([b"7", b"8", b"7"], stop=False)
    assert order == ["0", "1", "2"]
    assert [r.passed for r in report.results] == [True, False, True]


def test_a_big_request_does_not_hold_up_a_small_one() -> None:
    finished: list[str] = []

    async def borrow(lender: FairLender[int], key: str) -> None:
        async with lender.lend(key):
            await asyncio.sleep(0.001)
        finished.append(key)

    async def main() -> None:
        lender = FairLender(range(2))
        await asyncio.gather(*(borrow(lender, key) for key in ["big"] * 20 + ["small"]))

    asyncio.run(main())
    assert finished.index("small") < 5


def test_a_cancelled_borrower_gives_its_item_back() -> None:
    async def main() -> None:
        lender = FairLender([1])

        async def hold() -> None:
            async with lender.lend("a"):
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(hold()) for _ in range(3)]
        for task in tasks:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(1), lender.lend("b") as item:
            assert item == 1

    asyncio.run(main())
