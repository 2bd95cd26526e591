"""The end of an executor that still has something to do."""

from __future__ import annotations

import asyncio
import os

import pytest
from sandboxing import LIMITS, RULE, children

from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import SubprocessExecutor
from rlef_lightning.types import Report, TestCase

SLEEP = "import time\ntime.sleep(20)"


async def judge(executor: SubprocessExecutor) -> Report:
    tests = [TestCase(stdin="", expected_stdout="")]
    return await executor.judge(SLEEP, tests, limits=LIMITS, rule=RULE, stop_at_first_failure=False)


@pytest.mark.parametrize("started", [True, False])
def test_closing_ends_pending_judgements_and_starts_nothing(started: bool) -> None:
    """Whether the daemon runs them already, or is about to be started for one, and the other waits."""

    async def main() -> None:
        executor, before = SubprocessExecutor(workers=1, required=[]), children(os.getpid())
        if started:
            await executor.start()
        tasks = [asyncio.create_task(judge(executor)) for _ in range(2)]
        await asyncio.sleep(0.3 if started else 0.01)
        await executor.close()
        for task in tasks:
            with pytest.raises(ExecutorError, match="closed while a judgement was pending"):
                await asyncio.wait_for(task, 60)
        assert executor._connection is None
        assert children(os.getpid()) == before

    asyncio.run(main())
