"""Workers are lent to the request that holds the fewest, so that a slow solution does not hold up others."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class FairLender(Generic[T]):
    """Lends items to keys; among waiting keys, the one with the fewest items is next, then the oldest."""

    def __init__(self, items: Iterable[T]):
        self._free = deque(items)
        self._count = len(self._free)
        self._alone, self._all_free = asyncio.Lock(), asyncio.Event()
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[T]]] = {}

    @asynccontextmanager
    async def lend(self, key: Hashable) -> AsyncIterator[T]:
        """Waits for an item, and takes it back at the end of the block."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(future)
        self._serve()
        try:
            item = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was lent in the very same moment
                self._take_back(key, future.result())
            raise
        try:
            yield item
        finally:
            self._take_back(key, item)

    @asynccontextmanager
    async def lend_alone(self) -> AsyncIterator[T]:
        """Waits until nothing is lent, and lends nothing else until the end of the block."""
        try:
            async with self._alone:
                if len(self._free) < self._count:
                    self._all_free.clear()
                    await self._all_free.wait()
                yield self._free[0]
        finally:
            self._serve()

    def _take_back(self, key: Hashable, item: T) -> None:
        self._free.append(item)
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        if len(self._free) == self._count:
            self._all_free.set()
        self._serve()

    def _serve(self) -> None:
        """Hands out free items while someone waits, and nobody wants to be alone."""
        while self._free and self._waiting and not self._alone.locked():
            key = min(self._waiting, key=lambda key: self._held[key])  # insertion order breaks ties
            queue = self._waiting.pop(key)
            future = queue.popleft()
            if queue:
                self._waiting[key] = queue  # to the back of the line
            if not future.done():
                self._held[key] += 1
                future.set_result(self._free.popleft())
