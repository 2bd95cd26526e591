"""An executor in whatever loop its user has: one of another kind, and its end with something still to do."""

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


def test_it_works_in_a_loop_of_another_kind() -> None:
    """The trainer chooses it; vLLM brings uvloop."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> Report:
        executor = SubprocessExecutor(workers=1, required=[])
        try:
            return await executor.judge(
                "print(7)", [TestCase(stdin="", expected_stdout="7")], limits=LIMITS, rule=RULE,
                stop_at_first_failure=False,
            )  # fmt: skip
        finally:
            await executor.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()).passed
