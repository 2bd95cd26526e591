"""Who gets the next worker: against a slow oracle, and the promises that follow from the rule."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.execution.fair import FairLender, Line

Step = tuple[str, int, int]
"""What happens (ask, return, cancel), the client and the request."""
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "return", "cancel"]), st.integers(0, 2), st.integers(0, 2)),
    max_size=60,
)


class Oracle:
    """The rule word for word: everything is looked through for every item."""

    def __init__(self, items: int):
        self.free = items
        self.clock = itertools.count()
        self.queue: list[tuple[int, int]] = []
        self.held: Counter[object] = Counter()
        self.since: dict[object, int] = {}
        """When a key that waits began to wait with what it holds now."""
        self.lent: list[tuple[int, int]] = []

    def ask(self, client: int, request: int) -> None:
        self.queue.append((client, request))
        for key in ((client, request), client):
            self.since.setdefault(key, next(self.clock))
        self.serve()

    def cancel(self, client: int, request: int) -> None:
        if (client, request) in self.queue:
            index = len(self.queue) - 1 - self.queue[::-1].index((client, request))
            del self.queue[index]
            self.forget_idle()

    def give_back(self, client: int, request: int) -> None:
        self.free += 1
        self.change((client, request), -1)
        self.serve()

    def serve(self) -> None:
        while self.free and self.queue:
            client = min({c for c, _ in self.queue}, key=lambda c: (self.held[c], self.since[c]))
            borrower = min(
                {b for b in self.queue if b[0] == client}, key=lambda b: (self.held[b], self.since[b])
            )
            self.queue.remove(borrower)
            self.forget_idle()
            self.free -= 1
            self.lent.append(borrower)
            self.change(borrower, 1)

    def forget_idle(self) -> None:
        waiting = set(self.queue) | {client for client, _ in self.queue}
        self.since = {key: since for key, since in self.since.items() if key in waiting}

    def change(self, borrower: tuple[int, int], by: int) -> None:
        for key in (borrower, borrower[0]):
            self.held[key] += by
            if key in self.since:
                self.since[key] = next(self.clock)


class Borrowing:
    """One borrower's tasks: those that wait, and those that hold an item until they are told."""

    def __init__(self, lender: FairLender[int], lent: list[tuple[int, int]]):
        self.lender, self.lent = lender, lent
        self.waiting: dict[tuple[int, int], list[asyncio.Task[None]]] = {}
        self.holding: dict[tuple[int, int], list[asyncio.Event]] = {}

    async def borrow(self, borrower: tuple[int, int]) -> None:
        client, request = borrower
        async with self.lender.lend(request, client):
            self.waiting[borrower].remove(asyncio.current_task())  # type: ignore[arg-type]
            self.lent.append(borrower)
            done = asyncio.Event()
            self.holding.setdefault(borrower, []).append(done)
            await done.wait()

    async def step(self, what: str, borrower: tuple[int, int]) -> None:
        if what == "ask":
            task = asyncio.create_task(self.borrow(borrower))
            self.waiting.setdefault(borrower, []).append(task)
        elif what == "return":
            self.holding[borrower].pop(0).set()
        elif self.waiting.get(borrower):
            self.waiting[borrower].pop().cancel()
        await settle()


async def settle() -> None:
    """Lets every task go on until it waits."""
    for _ in range(8):
        await asyncio.sleep(0)


@given(items=st.integers(1, 4), steps=STEPS)
def test_items_go_where_the_rule_says(items: int, steps: list[Step]) -> None:
    async def main() -> None:
        lent: list[tuple[int, int]] = []
        oracle, real = Oracle(items), Borrowing(FairLender(range(items)), lent)
        for what, client, request in steps:
            borrower = (client, request)
            if what == "return":
                if not real.holding.get(borrower):
                    continue
                oracle.give_back(client, request)
            elif what == "ask":
                oracle.ask(client, request)
            else:
                oracle.cancel(client, request)
            await real.step(what, borrower)
            assert lent == oracle.lent
        for task in [task for tasks in real.waiting.values() for task in tasks]:
            task.cancel()
        for done in [done for events in real.holding.values() for done in events]:
            done.set()
        await settle()
        shared = real.lender._shared
        assert not shared
        assert (shared._requests, shared._waiting, shared._clients._rows) == ({}, {}, {})  # nothing is kept
        assert len(real.lender._free) == items

    asyncio.run(main())


@given(
    items=st.integers(1, 4),
    wishes=st.lists(
        st.tuples(st.booleans(), st.integers(0, 2), st.booleans(), st.integers(0, 3)), max_size=40
    ),
)
def test_alone_means_alone_and_everybody_gets_a_turn(
    items: int, wishes: list[tuple[bool, int, bool, int]]
) -> None:
    async def borrow(
        lender: FairLender[int], number: int, alone: bool, client: int, steps: int, out: list[bool]
    ) -> None:
        async with lender.alone(number, client) if alone else lender.lend(number, client):
            assert not out or not (alone or any(out))
            out.append(alone)
            try:
                for _ in range(steps):
                    await asyncio.sleep(0)
            finally:
                out.remove(alone)

    async def main() -> None:
        lender, out = FairLender(range(items)), list[bool]()
        tasks = []
        for number, (alone, client, cancelled, steps) in enumerate(wishes):
            tasks.append(asyncio.create_task(borrow(lender, number, alone, client, steps, out)))
            if cancelled:
                await asyncio.sleep(0)
                tasks[-1].cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        assert len(lender._free) == items

    asyncio.run(main())


def run_in_order(items: int, plan: Callable[[FairLender[int], list[str]], Awaitable[None]]) -> list[str]:
    """The names in the order in which they got an item."""
    order: list[str] = []
    asyncio.run(asyncio.wait_for(plan(FairLender(range(items)), order), 30))  # type: ignore[arg-type]
    return order


def test_a_long_queue_of_one_client_does_not_starve_another() -> None:
    async def plan(lender: FairLender[int], order: list[str]) -> None:
        all_asked = asyncio.Event()

        async def borrow(client: str, request: int) -> None:
            async with lender.lend(request, client):
                order.append(client)
                await all_asked.wait()

        tasks = [asyncio.create_task(borrow("many", number)) for number in range(1000)]
        tasks.append(asyncio.create_task(borrow("one", 0)))
        await settle()
        all_asked.set()
        await asyncio.gather(*tasks)

    assert run_in_order(2, plan).index("one") == 2  # the very next item after the two that are out


def test_a_run_alone_neither_starves_nor_is_starved() -> None:
    async def plan(lender: FairLender[int], order: list[str]) -> None:
        all_asked = asyncio.Event()

        async def borrow(name: str, alone: bool) -> None:
            async with lender.alone(object()) if alone else lender.lend(object()):
                order.append(name)
                await all_asked.wait()

        tasks = [asyncio.create_task(borrow(name, name == "A")) for name in "ssssssssAAA"]
        await settle()
        all_asked.set()
        await asyncio.gather(*tasks)

    assert "".join(run_in_order(2, plan)) == "ssAssAssAss"


@pytest.mark.parametrize("holds", [False, True])
def test_a_cancelled_wish_to_be_alone_holds_up_nobody(holds: bool) -> None:
    async def main() -> None:
        lender, entered = FairLender(range(2)), asyncio.Event()

        async def alone() -> None:
            async with lender.alone("a"):
                entered.set()
                await asyncio.sleep(60)

        if holds:
            wish = asyncio.create_task(alone())
            await entered.wait()
            wish.cancel()
        else:
            async with lender.lend("b"):
                wish = asyncio.create_task(alone())
                await settle()
                assert not entered.is_set()
                late = asyncio.create_task(use(lender))
                await settle()
                assert not late.done()  # it stands back
                wish.cancel()
                await asyncio.wait_for(late, 5)
        await asyncio.gather(wish, return_exceptions=True)
        await asyncio.wait_for(use(lender), 5)

    async def use(lender: FairLender[int]) -> None:
        async with lender.lend("c"):
            pass

    asyncio.run(main())


def test_rows_are_few_however_many_wait() -> None:
    line: Line[int] = Line()
    for key in range(1000):
        line.join(key)
    for key in range(20):
        for _ in range(key):
            line.hold(key, 1)
    assert len(line._rows) == 20  # held: 0 to 19; for that, 190 items must be out
    assert line.first() == 0
