"""A program that prints an address is reported alike by every runner, so that feedback can be repeated."""

from __future__ import annotations

import asyncio

from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.types import Limits, OutputRule, TestCase, Verdict

TEST = TestCase(stdin="", expected_stdout="nothing\n")
CODE = "import sys\nprint(map(int, []))\nprint(object(), file=sys.stderr)"


async def outputs(runs: int) -> set[tuple[str, str, Verdict]]:
    executor = SubprocessExecutor(workers=2)
    try:
        reports = await asyncio.gather(
            *(
                executor.judge(CODE, [TEST], limits=Limits(), rule=OutputRule(), stop_at_first_failure=False)
                for _ in range(runs)
            )
        )
        return {(r.stdout, r.stderr, r.verdict) for report in reports for r in report.results}
    finally:
        await executor.close()


def test_addresses_are_reported_alike_by_every_runner() -> None:
    first, second = asyncio.run(outputs(8)), asyncio.run(outputs(8))
    assert first == second
    assert first == {("<map object at 0x...>\n", "<object object at 0x...>\n", Verdict.WRONG_ANSWER)}
