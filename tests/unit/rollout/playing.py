"""Collecting with the doubles, in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from rlef_lightning.dialogue import Prompts
from rlef_lightning.rollout import Collection, Collector, Pace, PlaySettings
from rlef_lightning.rollout.collector import donors_of
from rlef_lightning.rollout.play import derive_seed
from rlef_lightning.types import Episode, Sampling

from .doubles import ScriptedEngine, ScriptedExecutor, chat_format, dialogues, problem

T = TypeVar("T")

HANG_S = 60.0
"""Nothing here takes a second: whatever waits so long waits for ever."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; a hang is an error, and so is a task that outlives it."""

    async def guarded() -> T:
        try:
            return await asyncio.wait_for(work, HANG_S)
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left

    return asyncio.run(guarded())


def collector_of(engine: ScriptedEngine, executor: ScriptedExecutor, pace: Pace | None = None) -> Collector:
    """A collector with the default wording."""
    return Collector(engine, executor, chat_format(), Prompts(), pace or Pace())


def collect(
    engine: ScriptedEngine,
    names: Sequence[str],
    *,
    executor: ScriptedExecutor | None = None,
    settings: PlaySettings | None = None,
    pace: Pace | None = None,
    seed: int = 0,
    progress: Any = None,
) -> Collection:
    """Play the named problems, for random feedback their donors first."""
    collector, settings = (
        collector_of(engine, executor or ScriptedExecutor(), pace),
        settings or PlaySettings(),
    )
    problems = [problem(name) for name in names]
    donors: tuple[Episode, ...] = ()
    if settings.feedback == "random":
        donors = run(collector.collect(problems, donors_of(settings), derive_seed(seed, "donors"))).episodes
    return run(collector.collect(problems, settings, seed, progress, donors=donors))


def play_one(
    *answers: str, turn_limit: int = 3, max_context_tokens: int = 100_000, max_response_tokens: int = 64
) -> tuple[Episode, ScriptedEngine, ScriptedExecutor]:
    """One episode on one problem."""
    engine = ScriptedEngine(dialogues({"a": answers}), max_context_tokens=max_context_tokens)
    executor = ScriptedExecutor()
    sampling = Sampling(max_response_tokens=max_response_tokens)
    settings = PlaySettings(turn_limit=turn_limit, sampling=sampling)
    collection = collect(engine, ["a"], executor=executor, settings=settings)
    (episode,) = collection.episodes
    return episode, engine, executor
