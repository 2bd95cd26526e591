"""Episodes' waits -> the order in which the engine steps and replies are handed on.

Every episode is a coroutine that waits for the engine or for the executor. This file owns both waits:
it steps the engine while programs run, and in the reproducible mode it hands an execution's reply on
at a fixed engine step, whenever the program really ended. It knows no dialogue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rlef_lightning.types import Completion, Sampling

T = TypeVar("T")

PASSES = 4
"""Turns of the event loop between two engine steps. A program's reply takes three of them, from the socket to
the request for the next response; with fewer it would reach the engine's batch some steps late."""


class Sampler(Protocol):
    """What a schedule needs of an engine; see `generation.Engine`."""

    def submit(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int
    ) -> asyncio.Future[Completion]:
        """Queue one request."""
        ...

    def step(self) -> None:
        """Work on all of them."""
        ...

    def abort(self) -> None:
        """Forget them."""
        ...


@dataclass(slots=True)
class _Held:
    """A reply that is due at a step."""

    due: int
    work: asyncio.Task[Any]
    gate: asyncio.Future[Any]


class Schedule:
    """Drives one engine for many coroutines; one schedule per collection.

    Args:
        engine: Steps are taken by `run` alone.
        reply_after_steps: See `Pace.reply_after_steps`.
    """

    def __init__(self, engine: Sampler, reply_after_steps: int | None) -> None:
        self._engine = engine
        self._delay = reply_after_steps
        self._held: deque[_Held] = deque()
        self._generating = 0
        self._running = 0
        self._failed = False
        self._forsaken = False  # requests were given up that the engine may still have
        self._wake = asyncio.Event()
        self.steps = 0

    async def generate(self, prompt_token_ids: Sequence[int], sampling: Sampling, seed: int) -> Completion:
        """One response; others are sampled in the same batch."""
        future = self._engine.submit(prompt_token_ids, sampling, seed)
        self._generating += 1
        future.add_done_callback(self._generated)
        self._wake.set()
        return await future

    def _generated(self, future: asyncio.Future[Completion]) -> None:
        self._generating -= 1
        self._forsaken |= future.cancelled()

    async def execute(self, work: Awaitable[T]) -> T:
        """The result of running a program, at once or at the step when it is due."""
        if self._delay is None:
            return await work
        gate: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(work)
        self._held.append(_Held(due=self.steps + self._delay, work=task, gate=gate))
        # An episode that is given up needs its program no longer.
        gate.add_done_callback(lambda _: task.cancel())
        self._wake.set()
        return await gate

    async def run(self, episodes: Sequence[asyncio.Task[Any]]) -> None:
        """Step until every episode task is done; the first exception among them is raised."""
        self._running = len(episodes)
        for task in episodes:
            task.add_done_callback(self._ended)
        try:
            while self._running:
                await self._advance()
                if self._failed:
                    self._raise_failure(episodes)
        finally:
            await self._abandon(episodes)
        for task in episodes:
            task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running -= 1
        self._failed |= not task.cancelled() and task.exception() is not None
        self._wake.set()

    async def _advance(self) -> None:
        self._wake.clear()  # here: whatever happens from now on must be looked at before the next sleep
        await self._pass()
        if self._failed or not self._running:
            return
        if self._delay is not None:
            await self._release_due()
        if self._generating:
            self._engine.step()
            self.steps += 1
        elif self._held:
            self.steps = max(self.steps, self._held[0].due)
        else:
            # Nothing to sample: sleep until an episode asks for a response or ends.
            await self._wake.wait()

    async def _pass(self) -> None:
        """Turns of the event loop let every episode that can go on reach its next wait."""
        for _ in range(PASSES if self._delay is None else 1):
            await asyncio.sleep(0)

    async def _release_due(self) -> None:
        while self._held and self._held[0].due <= self.steps:
            held = self._held.popleft()
            await asyncio.wait([held.work])  # unlike awaiting it, survives that the program is given up
            if held.gate.done():
                continue
            try:
                held.gate.set_result(held.work.result())
            except Exception as error:
                held.gate.set_exception(error)
            # The episode runs up to its next wait before the next reply is handed on: a fixed order.
            await asyncio.sleep(0)

    def _raise_failure(self, episodes: Sequence[asyncio.Task[Any]]) -> None:
        for task in episodes:
            if task.done() and not task.cancelled() and task.exception() is not None:
                task.result()

    async def _abandon(self, episodes: Sequence[asyncio.Task[Any]]) -> None:
        """Nothing may stay queued in the engine, or, after a failure, run on."""
        unfinished = [task for task in episodes if not task.done()]
        if unfinished or self._generating or self._forsaken:
            self._engine.abort()
        leftover = [*unfinished, *(held.work for held in self._held)]
        for task in leftover:
            task.cancel()
        # All of them, so that the failures of several episodes are all seen and one of them is reported.
        await asyncio.gather(*leftover, *episodes, return_exceptions=True)
