"""One vLLM engine over two ranks, played by the collector: no schedule makes one wait without end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from rlef_lightning.dialogue import ChatFormat, Prompts
from rlef_lightning.errors import ExecutorError
from rlef_lightning.generation import VLLMEngine
from rlef_lightning.models.tokenizer import load_tokenizer
from rlef_lightning.ranks import Ranks
from rlef_lightning.rollout import Collector, Pace, PlaySettings
from rlef_lightning.types import Problem, Report, Sampling, TestCase, TestResult, Verdict
from tests.two_ranks import on_two_ranks

from .commands import MODEL
from .cpu_engine import CPU_ENGINE

pytestmark = [pytest.mark.slow, CPU_ENGINE]

SCHEDULES = 200
PROMPTS = Prompts(
    format_request="", first="{statement}", feedback="{results}", no_code="?", wrong_answer="not {expected}"
)
CASES = (TestCase(stdin="", expected_stdout="1\n"),)


class Stopped(Exception):
    """As a signal, in the middle of a collection."""


class Coding(ChatFormat):
    """Most responses hold a program, whatever was sampled."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """As text; the last token decides."""
        return "?" if token_ids[-1] % 5 == 0 else "```python\nx\n```"


class RandomExecutor:
    """Programs that run for random times; some fail, for some there is no sandbox."""

    def __init__(self, draw: Random) -> None:
        self._draw = draw

    async def start(self) -> None:
        """Nothing to start."""

    async def judge(self, code: str, tests: Sequence[TestCase], **options: Any) -> Report:
        await asyncio.sleep(self._draw.choice([0.0, 0.0, 0.005, 0.02]))
        if self._draw.random() < 0.05:
            raise ExecutorError("no sandbox")
        verdict = self._draw.choice([Verdict.ACCEPTED, Verdict.WRONG_ANSWER])
        result = TestResult(verdict=verdict, stdout="", stderr="", cpu_s=0.0, wall_s=0.0, peak_memory_bytes=0)
        return Report(results=(result,) * len(tests))

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class Seen:
    """Over all schedules."""

    turns: Counter[int] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def play(engine: VLLMEngine, chat: ChatFormat, draw: Random, seen: Seen) -> None:
    """One collection of uneven dialogues, most with limits of time that some of them exceed."""
    settings = PlaySettings(
        turn_limit=draw.randint(1, 4),
        samples_per_problem=draw.randint(1, 3),
        cut_responses="read",
        sampling=Sampling(max_response_tokens=draw.randint(1, 6)),
    )
    pace = Pace(
        max_in_flight=draw.randint(1, 8),
        reply_after_steps=draw.choice([None, None, 2]),
        max_dropped_share=1.0,
        max_episode_s=draw.choice([None, 0.01, 0.03, 0.1]),
    )
    problems = [
        Problem(id=f"p{i}", statement="x" * draw.randint(1, 30), public_tests=CASES, private_tests=CASES)
        for i in range(draw.randint(1, 4))
    ]
    collector = Collector(engine, RandomExecutor(draw), chat, PROMPTS, pace)
    done_until_stop = draw.choice([None, None, 1, 3])

    def progress(done: int, total: int) -> None:
        if done == done_until_stop:
            raise Stopped

    try:
        collection = asyncio.run(collector.collect(problems, settings, draw.randrange(1000), progress))
    except Stopped:
        seen.dropped["stopped"] += 1
    else:
        seen.dropped += collection.dropped
        seen.turns.update(len(episode.turns) for episode in collection.episodes)


def all_schedules(rank: int) -> None:
    engine = VLLMEngine(
        max_context_tokens=256, max_sequences=8, enforce_eager=True, ranks_per_engine=2, rank_timeout_s=60.0
    )
    chat, ranks, seen = Coding(load_tokenizer(str(MODEL))), Ranks(60.0), Seen()
    engine.start(str(MODEL), chat.stop_token_ids)
    for seed in range(SCHEDULES):
        engine.lead(lambda seed=seed: play(engine, chat, Random(seed), seen))  # type: ignore[misc]
        # What the leader gave up its follower has given up, too.
        assert not engine._waiting, seed
        assert not engine._engine.has_unfinished_requests(), seed
    assert ranks.gather(rank) == [0, 1]
    if rank == 0:  # the schedules differ
        assert {"time_limit", "executor", "stopped"} <= set(seen.dropped)
        assert set(seen.turns) == {1, 2, 3, 4}
    engine.close()


def test_no_schedule_leaves_one_waiting() -> None:
    on_two_ranks(all_schedules)
