"""Workers are lent to whoever holds the fewest: to clients first, then to the requests of each client.

So neither a slow solution nor a rank with a long queue holds up the others. A step takes the same time
however many wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Borrower = tuple[Hashable, Hashable]
"""A client and one of its requests."""

STOP_S = 1.0
"""Seconds for which at most nobody gets an item because somebody waits to be alone."""
REST_S = 4.0
"""Seconds of lending as usual between two such stops: they take a fifth of the time at most."""
PATIENCE_S = 60.0
"""Seconds of stops in vain, after which one lasts until all items are back."""


class Line(Generic[K]):
    """Keys that wait, in rows by what they hold; a key stands at the end of its row when it comes there.

    There are few rows: of n items at most about sqrt(2 n) different numbers can be held.
    """

    def __init__(self) -> None:
        self._held: Counter[K] = Counter()
        self._rows: dict[int, OrderedDict[K, None]] = {}  # of a plain dict, finding the first takes long

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def unused(self) -> bool:
        """True when nobody waits and nothing is held."""
        return not self._rows and not self._held

    def join(self, key: K) -> None:
        """Waits from now on; without effect for one that waits already."""
        self._rows.setdefault(self._held[key], OrderedDict())[key] = None

    def leave(self, key: K) -> bool:
        """Waits no longer; True when it did."""
        held = self._held[key]
        row = self._rows.get(held)
        if row is None or key not in row:
            return False
        del row[key]
        if not row:
            del self._rows[held]
        return True

    def first(self) -> K:
        """The key in the front of the row that holds the fewest."""
        return next(iter(self._rows[min(self._rows)]))

    def hold(self, key: K, change: int) -> None:
        """The key holds one item more (1) or less (-1), and changes rows if it waits."""
        waits = self.leave(key)
        self._held[key] += change
        if not self._held[key]:
            del self._held[key]
        if waits:
            self.join(key)


class Queue(Generic[T]):
    """Those who wait for an item: a line of clients, and for each a line of its requests."""

    def __init__(self) -> None:
        self._clients: Line[Hashable] = Line()
        self._requests: dict[Hashable, Line[Borrower]] = {}
        self._waiting: dict[Borrower, OrderedDict[asyncio.Future[T], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._clients)

    def add(self, borrower: Borrower) -> asyncio.Future[T]:
        """A future that will get an item."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(borrower, OrderedDict())[future] = None
        self._requests.setdefault(borrower[0], Line()).join(borrower)
        self._clients.join(borrower[0])
        return future

    def discard(self, borrower: Borrower, future: asyncio.Future[T]) -> None:
        """Takes a future out, if it is still there."""
        futures = self._waiting.get(borrower)
        if futures is None or future not in futures:
            return
        del futures[future]
        if futures:
            return
        del self._waiting[borrower]
        requests = self._requests[borrower[0]]
        requests.leave(borrower)
        if not requests:
            self._clients.leave(borrower[0])
        self._tidy(borrower[0])

    def pop(self) -> tuple[Borrower, asyncio.Future[T]]:
        """Takes out whoever is next."""
        borrower = self._requests[self._clients.first()].first()
        future = next(iter(self._waiting[borrower]))
        self.discard(borrower, future)
        return borrower, future

    def hold(self, borrower: Borrower, change: int) -> None:
        """The borrower holds one item more (1) or less (-1)."""
        client = borrower[0]
        self._requests.setdefault(client, Line()).hold(borrower, change)
        self._clients.hold(client, change)
        self._tidy(client)

    def _tidy(self, client: Hashable) -> None:
        if client in self._requests and self._requests[client].unused:
            del self._requests[client]


class Drain:
    """When lending stops so that all items come back, on behalf of whoever is next to be alone.

    A stop that is over before they are back has been in vain: others hold their items for long. Then lending
    goes on, and another stop follows. It would be no way out to go ahead beside the others: one that
    sleeps now may compute in a moment, and who is alone must be.
    """

    def __init__(self, go_on: Callable[[], None]):
        self._go_on = go_on
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self.stopped = False
        """True while nothing may be lent."""

    def begin(self) -> None:
        """Stops lending now; without effect once begun."""
        if self._timer is None:
            self._began = asyncio.get_running_loop().time()
            self._stop()

    def end(self) -> None:
        """Somebody is alone, or nobody wants to be any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.stopped = None, False

    def _stop(self) -> None:
        self.stopped, loop = True, asyncio.get_running_loop()
        if loop.time() - self._began < PATIENCE_S:
            self._timer = loop.call_later(STOP_S, self._rest)

    def _rest(self) -> None:
        self.stopped = False
        self._timer = asyncio.get_running_loop().call_later(REST_S, self._stop)
        self._go_on()


class FairLender(Generic[T]):
    """Lends items: many at once, or one alone.

    The next item goes to the waiting client that holds the fewest, there to the request that holds the
    fewest, and within a request in the order of asking; of equals, to the one that became equal first.
    """

    def __init__(self, items: Iterable[T]):
        self._free = deque(items)
        self._count = len(self._free)
        self._shared: Queue[T] = Queue()
        self._alone: Queue[T] = Queue()
        self._drain = Drain(self._serve)
        self._turns = self._count
        """Items lent since somebody was alone last; 0 while somebody is."""

    @asynccontextmanager
    async def lend(self, key: Hashable, client: Hashable = None) -> AsyncIterator[T]:
        """Waits for an item, and takes it back at the end of the block. `key` is one request of `client`."""
        borrower = (client, key)
        item = await self._wait(self._shared, borrower)
        try:
            yield item
        finally:
            self._take_back(self._shared, borrower, item)

    @asynccontextmanager
    async def alone(self, key: Hashable, client: Hashable = None) -> AsyncIterator[T]:
        """As `lend`, but waits until all items are back, and nobody else gets one during the block.

        Neither starves the other. After each block as many items as there are go to `lend`, if wanted, before
        the next `alone`. While it waits for items, others get none for STOP_S at a time only, with REST_S
        between, so that one long loan does not leave all other items unused. A wait for its turn ends
        PATIENCE_S after the first stop and a little later (STOP_S + REST_S), plus the longest loan. The
        caller must not hold an item, or it would wait for itself.
        """
        borrower = (client, key)
        item = await self._wait(self._alone, borrower)
        try:
            yield item
        finally:
            self._take_back(self._alone, borrower, item)

    async def _wait(self, queue: Queue[T], borrower: Borrower) -> T:
        future = queue.add(borrower)
        self._serve()
        try:
            return await future
        except asyncio.CancelledError:
            queue.discard(borrower, future)
            if future.done() and not future.cancelled():  # it was lent in the very same moment
                self._take_back(queue, borrower, future.result())
            else:
                self._serve()  # others may have stood back for this one
            raise

    def _serve(self) -> None:
        """Hands out whatever may be handed out now."""
        while queue := self._next_queue():
            borrower, future = queue.pop()
            if future.done():
                continue  # cancelled a moment ago
            queue.hold(borrower, 1)
            self._turns = 0 if queue is self._alone else self._turns + 1
            future.set_result(self._free.popleft())

    def _next_queue(self) -> Queue[T] | None:
        """The queue whose turn it is to get an item now; None: nobody gets one."""
        if self._turns == 0 and len(self._free) < self._count:
            return None  # somebody is alone
        due = self._turns >= self._count or not self._shared
        if not self._alone:
            self._drain.end()
        elif due and len(self._free) == self._count:
            self._drain.end()
            return self._alone
        elif due:
            self._drain.begin()
            if self._drain.stopped:
                return None
        return self._shared if self._shared and self._free else None

    def _take_back(self, queue: Queue[T], borrower: Borrower, item: T) -> None:
        self._free.append(item)
        queue.hold(borrower, -1)
        self._serve()
