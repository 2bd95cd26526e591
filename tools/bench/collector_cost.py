"""Episodes -> CPU seconds of the collector alone, over an engine and an executor that cost nothing.

Everything but sampling and execution: tokenising, taking out the code, feedback, bookkeeping, the event loop,
and the episodes' way into the store. The two stand-ins' own work is counted with it.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from rlef_lightning.dialogue import ChatFormat, Prompts
from rlef_lightning.rollout import Collector, EpisodeLog, Pace, PlaySettings, Store
from rlef_lightning.rollout.store import Origin, Writer
from rlef_lightning.types import (
    Completion,
    Limits,
    OutputRule,
    Problem,
    Report,
    Sampling,
    TestCase,
    TestResult,
    Verdict,
)

RESPONSE = "```python\n" + "\n".join(f"value_{i} = int(input()) * {i}" for i in range(12)) + "\n```"
WRONG = TestResult(
    verdict=Verdict.WRONG_ANSWER, stdout="8\n", stderr="", cpu_s=0.1, wall_s=0.1, peak_memory_bytes=0
)


class ReadyEngine:
    """Answers each request with the same response, at most `batch` of them in a step."""

    policy_version = 0
    max_context_tokens = 1 << 20

    def __init__(self, response_ids: Sequence[int], batch: int) -> None:
        self._answer = Completion(
            token_ids=tuple(response_ids),
            logprobs=(-0.5,) * len(response_ids),
            finish_reason="stop",
            policy_version=0,
        )
        self._batch = batch
        self._waiting: list[asyncio.Future[Completion]] = []

    def start(self, model_folder: str, stop_token_ids: Sequence[int]) -> None:
        """Nothing to load."""

    def submit(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int
    ) -> asyncio.Future[Completion]:
        """Answered in a later step."""
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def step(self) -> None:
        """Answer the oldest requests."""
        now, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        for future in now:
            future.set_result(self._answer)

    def abort(self) -> None:
        """Forget them."""
        self._waiting.clear()

    def sync_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """There are none."""

    def prompt_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Not asked for."""
        return [[0.0] * (len(ids) - 1) for ids in sequences]

    def close(self) -> None:
        """Nothing to free."""


class ReadyExecutor:
    """Every program is wrong on every test, at once."""

    async def start(self) -> None:
        """Nothing to start."""

    async def judge(
        self,
        code: str,
        tests: Sequence[TestCase],
        *,
        limits: Limits,
        rule: OutputRule,
        stop_at_first_failure: bool,
        interface: Any = None,
    ) -> Report:
        """Wrong."""
        return Report(results=(WRONG,) * len(tests))

    async def close(self) -> None:
        """Nothing to end."""


@cache
def long_problems(chat: ChatFormat, prompt_tokens: int, count: int) -> list[Problem]:
    """Problems whose statements have so many tokens, or a few more."""
    line = "Read the numbers of each line and print their sum, one line for each line of the input.\n"
    lines = -(-prompt_tokens // len(chat.first_prompt(line * 8)) * 8)
    tests = (TestCase(stdin="3 4\n", expected_stdout="7\n"),) * 3
    return [
        Problem(id=f"long-{i}", statement=f"{i} " + line * lines, public_tests=tests, private_tests=tests)
        for i in range(count)
    ]


def fresh_log(folder: str) -> EpisodeLog:
    """Of a collection that nobody has begun; episodes are written to it as in a run."""
    origin = Origin(collection="train", epoch=0, seed=0, weights="", settings="", problems="")
    return EpisodeLog(Store(folder=folder), origin, Writer())


async def cpu_s_per_turn(
    chat: ChatFormat, response_ids: Sequence[int], prompt_tokens: int, episodes: int
) -> float:
    """CPU seconds of this process for one turn, over episodes of three turns."""
    problems = long_problems(chat, prompt_tokens, episodes)
    collector = Collector(
        ReadyEngine(response_ids, batch=256),
        ReadyExecutor(),
        chat,
        Prompts(),
        Pace(),
    )
    settings = PlaySettings(turn_limit=3)
    with tempfile.TemporaryDirectory() as folder, fresh_log(folder) as log:
        gc.collect()
        began = time.process_time()
        collection = await collector.collect(problems, settings, 0, log=log)
        spent = time.process_time() - began
    return spent / sum(len(episode.turns) for episode in collection.episodes)
