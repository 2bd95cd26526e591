"""Long computations next to the daemon's event loop, in one thread: a huge output must not stall all runs."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

T = TypeVar("T")
Job = Callable[[], None]

LARGE = 32 << 10
"""Characters from which on a comparison goes aside. Up to here it takes 1 to 20 ms; 16 MB take up to 10 s."""


async def aside(function: Callable[[], T]) -> T:
    """The function's result, computed while the loop goes on; one such function at a time."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def job() -> None:
        found: tuple[T | None, BaseException | None]
        try:
            found = function(), None
        except BaseException as error:
            found = None, error
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(partial(finish, *found))

    _jobs().put(job)
    return await future


@cache
def _jobs() -> queue.SimpleQueue[Job]:
    """The jobs of the thread, which starts with the first; as a daemon thread it holds up no exit."""
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def work() -> None:
        while True:
            jobs.get()()

    threading.Thread(target=work, name="aside", daemon=True).start()
    return jobs
