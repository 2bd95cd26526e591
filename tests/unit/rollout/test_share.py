"""Seats of one collection among several ranks: each exactly once, whoever is how fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlef_lightning.rollout import Pace, PlaySettings, Share, merge

from .doubles import Gauge, ScriptedEngine, ScriptedExecutor, always, dialogues, problem, program
from .playing import collect, collector_of, run

NAMES = tuple(f"p{i}" for i in range(8))
MIXED = dialogues({name: [program("wrong")] * (i % 3) + [program("right")] for i, name in enumerate(NAMES)})


@dataclass
class Count:
    """A counter within one process."""

    number: int = 0

    def add(self, count: int) -> int:
        self.number += count
        return self.number


@given(
    total=st.integers(0, 60), players=st.integers(1, 5), samples=st.integers(1, 20), seed=st.integers(0, 99)
)
def test_every_seat_once_in_any_order_of_taking(total: int, players: int, samples: int, seed: int) -> None:
    draw, counter = Random(seed), Count()
    share = Share(counter=counter, players=players, samples_per_problem=samples)
    letters = [f"seat {i}" for i in range(total)]
    queues = [share.seats(letters) for _ in range(players)]
    taken: list[tuple[int, str]] = []
    while queues:
        queue = draw.choice(queues)
        seat = next(queue, None)
        if seat is None:
            queues.remove(queue)
        else:
            taken.append(seat)
    assert sorted(taken) == list(enumerate(letters))


@given(total=st.integers(1, 5000), players=st.integers(1, 64), samples=st.integers(1, 300))
def test_hands_keep_a_problem_together_and_leave_something_to_balance(
    total: int, players: int, samples: int
) -> None:
    hand = Share(counter=Count(), players=players, samples_per_problem=samples).hand(total)
    assert 1 <= hand <= samples
    assert hand == 1 or total // hand >= 4 * players


@given(limit=st.integers(1, 300), total=st.integers(1, 5000), players=st.integers(1, 64))
def test_no_rank_takes_more_at_once_than_its_share(limit: int, total: int, players: int) -> None:
    in_flight = Share(counter=Count(), players=players).in_flight(limit, total)
    assert 1 <= in_flight <= limit
    assert in_flight * players >= min(total, limit * players)  # together they hold what they may
    assert (in_flight - 1) * players < total


def test_two_ranks_play_what_one_would_have_played() -> None:
    settings = PlaySettings(samples_per_problem=3)
    alone = collect(ScriptedEngine(MIXED), NAMES, settings=settings, seed=5)
    problems, counter = [problem(name) for name in NAMES], Count()
    parts = []
    for in_flight in (2, 4):  # the first takes its seats before the second comes
        share = Share(counter=counter, players=2, samples_per_problem=3)
        collector = collector_of(ScriptedEngine(MIXED), ScriptedExecutor(), Pace(max_in_flight=in_flight))
        few: Any = _Stopping(share, seats=9 if in_flight == 2 else 100)
        parts.append(run(collector.collect(problems, settings, 5, share=few)))
    assert [len(part.episodes) for part in parts] == [9, 15]
    whole = merge(parts, problems, settings)
    assert whole.episodes == alone.episodes
    assert whole.problems == alone.problems
    assert whole.seconds == max(part.seconds for part in parts)


class _Stopping:
    """A share of which the rank takes a few seats only, as if it were slow."""

    def __init__(self, share: Share, seats: int) -> None:
        self._share, self._left = share, seats

    def in_flight(self, limit: int, total: int) -> int:
        return self._share.in_flight(limit, total)

    def seats(self, seats: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        return islice(self._share.seats(seats), self._left)


def test_a_rank_has_no_more_episodes_in_flight_than_its_share() -> None:
    gauge = Gauge()
    engine = ScriptedEngine(dialogues(always(NAMES, program("wrong"))), gauge=gauge)
    share = Share(counter=Count(), players=4)
    run(
        collector_of(engine, ScriptedExecutor()).collect(
            [problem(name) for name in NAMES], PlaySettings(), 0, share=share
        )
    )
    assert gauge.peak == 2  # 8 seats, 4 players


def test_drops_of_all_ranks_are_added_up() -> None:
    names = ["p0", "p1", "p2", "p3"]
    script = dialogues({**always(names[:2], program("break")), **always(names[2:], program("right"))})
    part = collect(ScriptedEngine(script), names, pace=Pace(max_dropped_share=1.0))
    whole = merge([part, part], [problem(name) for name in names], PlaySettings())
    assert whole.dropped == Counter(executor=4)
    with pytest.raises(KeyError):  # an episode that nobody asked for
        merge([part], [problem("p3")], PlaySettings())
