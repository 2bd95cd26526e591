"""How long those wait who get no item because somebody wants to be alone, and how long that one waits.

In a time that jumps to the next thing that is due, so that a minute takes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from rlef_lightning.execution.fair import PATIENCE_S, REST_S, STOP_S, FairLender

LOOK_S = 0.25


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while something is ready."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        due = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        if due and not self._ready:  # type: ignore[attr-defined]
            self.now = max(self.now, min(due))
        super()._run_once()  # type: ignore[misc]


def run(plan: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await plan()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Loans:
    """Borrowers of a lender, with what they had to wait."""

    lender: FairLender[int]
    out: list[bool] = field(default_factory=list)
    """Of each item that is out, whether somebody is alone with it."""
    waited: list[tuple[bool, float, float]] = field(default_factory=list)
    """alone, seconds waited, when that was over."""
    asking: dict[object, float] = field(default_factory=dict)
    """Those who wait to be alone, since when."""

    async def borrow(self, after_s: float, alone: bool, hold_s: float) -> None:
        await asyncio.sleep(after_s)
        asked, key = now(), object()
        if alone:
            self.asking[key] = asked
        async with self.lender.alone(key) if alone else self.lender.lend(key):
            self.asking.pop(key, None)
            assert not self.out or not (alone or any(self.out))
            self.waited.append((alone, now() - asked, now()))
            self.out.append(alone)
            await asyncio.sleep(hold_s)
            self.out.remove(alone)

    async def watch(self) -> None:
        """Nobody stands before a free item for longer than a stop, but for one who has been very patient.

        Stops may follow each other where somebody was alone, and others had their turns, in between.
        """
        since, served = now(), 0
        while True:
            held_back = self.lender._free and self.lender._shared and not any(self.out)
            patient = self.asking and now() - min(self.asking.values()) >= PATIENCE_S
            stands_still = held_back and not patient and len(self.waited) == served
            since, served = since if stands_still else now(), len(self.waited)
            assert now() - since <= STOP_S + LOOK_S
            await asyncio.sleep(LOOK_S)

    async def all_of(self, *loans: tuple[float, bool, float]) -> None:
        watch = asyncio.ensure_future(self.watch())
        await asyncio.gather(*(self.borrow(*loan) for loan in loans))
        watch.cancel()
        await asyncio.wait([watch])
        if not watch.cancelled():
            watch.result()


LOANS = st.lists(
    st.tuples(st.floats(0, 30), st.booleans(), st.sampled_from([0.01, 0.5, 3.0, 30.0])),
    min_size=8,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(items=st.integers(1, 4), loans=LOANS)
def test_stops_are_short_and_nobody_starves(items: int, loans: list[tuple[float, bool, float]]) -> None:
    async def plan() -> None:
        made = Loans(FairLender(range(items)))
        await made.all_of(*loans)
        assert len(made.waited) == len(loans)
        assert len(made.lender._free) == items
        turns = sum(alone for _, alone, _ in loans)
        longest, total = max((s for _, _, s in loans), default=0), sum(s for _, _, s in loans)
        a_turn = PATIENCE_S + STOP_S + REST_S + longest
        assert all(waited <= turns * a_turn + total for _, waited, _ in made.waited)

    run(plan)


def test_a_long_loan_and_one_who_waits_to_be_alone_hold_up_nobody() -> None:
    """On two items, one of which is out for 28 s."""

    async def plan() -> None:
        made = Loans(FairLender(range(2)))
        quick = [(0.2 + 0.1 * n, False, 0.01) for n in range(400)]
        await made.all_of((0.0, False, 28.0), (0.1, True, 0.5), *quick)
        ((_, _, began),) = (one for one in made.waited if one[0])
        assert 28.0 <= began <= 28.1
        worst = max(waited for alone, waited, _ in made.waited if not alone)
        assert 0.8 <= worst <= STOP_S + 0.02
        # ten come in each of the 6 stops until then, one while those are served; six while one is alone
        held_up = sum(waited > 0.015 for _, waited, _ in made.waited)
        assert held_up <= 6 * (10 + 1) + 5 + 1

    run(plan)


def test_one_who_waits_to_be_alone_gets_a_turn_among_long_loans() -> None:
    """Two items, never both free of themselves: stops begin every 5 s, that of 60 s is the first to last."""

    async def plan() -> None:
        made = Loans(FairLender(range(2)))
        long = [(0.0, False, 15.0 + n % 3) for n in range(30)]
        await made.all_of(*long, (1.0, True, 1.0))
        ((_, waited, _),) = (one for one in made.waited if one[0])
        assert PATIENCE_S <= waited <= PATIENCE_S + 17.0

    run(plan)


def test_a_wish_that_is_given_up_ends_its_stop() -> None:
    async def plan() -> None:
        made = Loans(FairLender(range(2)))
        wish = asyncio.ensure_future(made.borrow(0.1, True, 1.0))
        loans = asyncio.ensure_future(made.all_of((0.0, False, 30.0), (0.2, False, 1.0)))
        await asyncio.sleep(0.5)
        wish.cancel()
        await loans
        assert [waited for _, waited, _ in made.waited] == [0.0, 0.3]
        assert made.lender._drain._timer is None

    run(plan)
