"""A collection -> the same collection, looked at from time to time: no engine and no episode may hang unseen.

Three kinds of hanging: an episode that does not end (`within`), an engine that steps and answers nothing, and
a step that does not return (both `EngineWatch`). And a signal to stop must be seen at any time (`watched`).
This file decides what is too long, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from rlef_lightning.errors import EngineError, RolloutError
from rlef_lightning.generation import Engine
from rlef_lightning.generation.guard import Guard, end_process
from rlef_lightning.types import Completion, Sampling

T = TypeVar("T")

CHECK_S = 0.5
"""Seconds between two looks."""
PAUSE_S = 1.0
"""Between two steps no more than this counts as the engine's silence: there it is not asked to work."""


class EpisodeTimeout(RolloutError):
    """An episode has not ended within its time."""


async def within(episode: Coroutine[Any, Any, T], limit_s: float | None) -> T:
    """The episode's result.

    Raises:
        EpisodeTimeout: it did not end in time, and has been given up.
    """
    try:
        async with asyncio.timeout(limit_s) as bound:
            return await episode
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise EpisodeTimeout(
            f"an episode has not ended within {limit_s:g} s (data.pace.max_episode_s)"
        ) from error


async def watched(work: Coroutine[Any, Any, None], checks: Sequence[Callable[[], None]]) -> None:
    """Run `work`; each check is called twice a second, and what one raises ends the work, too."""
    working = asyncio.ensure_future(work)
    looking = asyncio.ensure_future(_look(checks))
    try:
        await asyncio.wait([working, looking], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (looking, working):
            task.cancel()
        await asyncio.gather(looking, working, return_exceptions=True)
    if not looking.cancelled():
        looking.result()
    working.result()


async def _look(checks: Sequence[Callable[[], None]]) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        for check in checks:
            check()


class EngineWatch:
    """The part of an engine that a schedule uses, with an eye on whether it answers. A context manager.

    Args:
        engine: Does the work.
        silence_s: How long the engine may step without answering any request; None: for ever.
        give_up: Called, from another thread, when a single step lasts as long; None: ends the process.
    """

    def __init__(
        self, engine: Engine, silence_s: float | None, give_up: Callable[[str], None] | None = None
    ) -> None:
        self._engine, self._limit = engine, silence_s
        self._guard = Guard(silence_s, self._describe, give_up or end_process)
        self._waiting = 0
        self._silent_s = 0.0
        self._ended = 0.0

    def submit(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int
    ) -> asyncio.Future[Completion]:
        """As `Engine.submit`."""
        future = self._engine.submit(prompt_token_ids, sampling, seed)
        self._waiting += 1
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _: asyncio.Future[Completion]) -> None:
        self._waiting -= 1
        self._silent_s = 0.0

    def step(self) -> None:
        """As `Engine.step`."""
        began = time.monotonic()
        self._silent_s += min(began - self._ended, PAUSE_S)
        try:
            with self._guard.work():
                self._engine.step()
        finally:
            self._ended = time.monotonic()
            self._silent_s += self._ended - began

    def abort(self) -> None:
        """As `Engine.abort`."""
        self._engine.abort()

    def check(self) -> None:
        """Look at the engine's answers.

        Raises:
            EngineError: it answers nothing.
        """
        if self._limit is not None and self._waiting and self._silent_s > self._limit:
            raise EngineError(
                f"the engine has answered none of {self._waiting} requests in {self._silent_s:.0f} s of "
                f"stepping (data.pace.max_engine_silence_s={self._limit:g}): look at the device it runs on, "
                "or raise the limit if single responses take so long"
            )

    def _describe(self) -> str:
        return (
            f"a step of the engine with {self._waiting} requests has not returned within {self._limit:g} s "
            "(data.pace.max_engine_silence_s)"
        )

    def __enter__(self) -> EngineWatch:
        self._guard.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._guard.__exit__(*exception)
