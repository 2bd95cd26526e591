"""An outage of the real executor in the middle of a collection: over, or for good."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from rlef_lightning.dialogue import Prompts
from rlef_lightning.errors import ExecutorError
from rlef_lightning.execution import SubprocessExecutor, client
from rlef_lightning.rollout import Collection, Collector, Pace, PlaySettings
from rlef_lightning.types import Limits, Problem, TestCase

from .doubles import ScriptedEngine, always, chat_format, dialogues, program
from .playing import run

pytestmark = pytest.mark.slow

NAMES = tuple(f"p{i}" for i in range(8))
TEST = (TestCase(stdin="", expected_stdout="1\n"),)
PROBLEMS = [
    Problem(id=name, statement=f"Solve {name}.", public_tests=TEST, private_tests=TEST, limits=Limits())
    for name in NAMES
]
SCRIPT = dialogues(always(NAMES, program("import time\ntime.sleep(0.2)\nprint(2)"), program("print(1)")))


def played(outage: Callable[[int], None], pace: Pace) -> Collection:
    """Every program runs in the sandbox; the outage comes when one episode has ended."""

    async def main() -> Collection:
        executor = SubprocessExecutor(workers=1, retries=1)

        def progress(done: int, total: int) -> None:
            if done == 1:
                assert executor._connection is not None
                outage(executor._connection.pid)

        collector = Collector(ScriptedEngine(SCRIPT), executor, chat_format(), Prompts(), pace)
        try:
            return await collector.collect(PROBLEMS, PlaySettings(), 0, progress)
        finally:
            await executor.close()
            await asyncio.sleep(0.1)  # the connection's own tasks end

    return run(main())


@pytest.mark.parametrize("reply_after_steps", [None, 2])
def test_a_daemon_that_is_killed_costs_nothing(reply_after_steps: int | None) -> None:
    pace = Pace(max_in_flight=3, reply_after_steps=reply_after_steps)
    collection = played(lambda pid: os.kill(pid, signal.SIGKILL), pace)
    assert [episode.problem_id for episode in collection.episodes] == list(NAMES)
    assert all(episode.solved and len(episode.turns) == 2 for episode in collection.episodes)
    assert not collection.dropped


@pytest.mark.parametrize("reply_after_steps", [None, 2])
def test_a_lasting_outage_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, reply_after_steps: int | None
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no more processes")

    def outage(pid: int) -> None:
        monkeypatch.setattr(client, "start_private", refuse)
        os.kill(pid, signal.SIGKILL)

    pace = Pace(max_in_flight=3, max_dropped_share=0.3, reply_after_steps=reply_after_steps)
    with pytest.raises(
        ExecutorError, match=r"3 of 8 episodes were dropped \{'executor': 3\}.*no more processes"
    ):
        played(outage, pace)
