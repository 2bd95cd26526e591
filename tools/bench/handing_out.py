"""How many episodes a rank should have in flight: python tools/bench/handing_out.py.

A simulation on a clock of its own, by the package's own rule of handing out (rollout/share.py). Four
ranks play 256 episodes of one to three turns of 20 to 60 tokens; programs run for 5 units of time on
average. A step of an engine takes `fixed + each * episodes in its batch`. What is shown is the time until
the last rank has ended, as a share of the time with everything handed out at the start (`max_in_flight`
at least the fair share): means over seeds. Below 1, something kept back for the counter has helped.

Prints one JSON object a line. Knows no engine and no program; what it says holds for these engines only.
"""

from __future__ import annotations

import heapq
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from rlef_lightning.rollout import Share

RANKS, EPISODES, PROGRAM = 4, 256, 5.0
ENGINES = {"waits for memory": (1.0, 0.0), "between": (1.0, 1 / 32), "computes": (0.0, 1 / 32)}
"""(fixed, each) of a step: as long for few sequences as for many; both; as much longer as there are more."""
SPEEDS = {
    "even": (1.0, 1.0, 1.0, 1.0),
    "one 1.5 x slower": (1.5, 1.0, 1.0, 1.0),
    "one 3 x": (3.0, 1.0, 1.0, 1.0),
}
PARTS = (1.0, 7 / 8, 3 / 4, 1 / 2, 1 / 4)
"""`max_in_flight` as a part of the fair share."""
SEEDS = 5


@dataclass
class Counter:
    """What rank 0 keeps in a run."""

    number: int = 0

    def add(self, count: int) -> int:
        """Count up."""
        self.number += count
        return self.number


@dataclass
class Rank:
    """One engine, its episodes and where they stand."""

    queue: Iterator[tuple[int, list[int]]]
    slower: float
    sampling: list[list[int]] = field(default_factory=list)
    """Tokens left of the turn, then of the turns after it."""
    running: list[tuple[float, list[int]]] = field(default_factory=list)
    """When a program ends, and whose it is."""
    ended: float = 0.0

    def take(self) -> None:
        """The next episode, if there is one."""
        seat = next(self.queue, None)
        if seat is not None:
            self.sampling.append(list(seat[1]))

    def advance(self, now: float, engine: tuple[float, float], draw: Random) -> float | None:
        """What is due, and a step; when the next one is due, None at the end."""
        due = [turns for end, turns in self.running if end <= now]
        self.running = [one for one in self.running if one[0] > now]
        for turns in due:
            if turns:
                self.sampling.append(turns)
            else:
                self.ended = now
                self.take()
        if not self.sampling:
            return min((end for end, _ in self.running), default=None)
        fixed, each = engine
        then = now + self.slower * (fixed + each * len(self.sampling))
        for turns in self.sampling:
            turns[0] -= 1
        self.running += [(then + draw.expovariate(1 / PROGRAM), t[1:]) for t in self.sampling if not t[0]]
        self.sampling = [turns for turns in self.sampling if turns[0]]
        return then


def makespan(
    part: float, engine: tuple[float, float], speeds: Sequence[float], seed: int, episodes: int = EPISODES
) -> float:
    """Time until the last rank has ended, with `part` of the fair share in flight."""
    draw = Random(seed)
    seats = [[draw.randint(20, 60) for _ in range(draw.choice((1, 2, 3, 3)))] for _ in range(episodes)]
    counter, players = Counter(), len(speeds)
    limit = max(1, round(part * episodes / players))
    shares = [Share(counter=counter, players=players) for _ in speeds]
    ranks = [Rank(share.seats(seats), slower) for share, slower in zip(shares, speeds, strict=True)]
    for _ in range(shares[0].in_flight(limit, episodes)):
        for rank in ranks:
            rank.take()
    clock = [(0.0, number) for number in range(players)]
    while clock:
        now, number = heapq.heappop(clock)
        then = ranks[number].advance(now, engine, draw)
        if then is not None:
            heapq.heappush(clock, (then, number))
    assert counter.number >= episodes
    return max(rank.ended for rank in ranks)


def table() -> Iterator[dict[str, object]]:
    """A line for each kind of engine and each unevenness."""
    for engine, cost in ENGINES.items():
        for ranks, speeds in SPEEDS.items():
            spans = [
                statistics.mean(makespan(part, cost, speeds, seed) for seed in range(SEEDS)) for part in PARTS
            ]
            ratios = {f"{part:g}": round(span / spans[0], 2) for part, span in zip(PARTS, spans, strict=True)}
            yield {"engine": engine, "ranks": ranks, "time_by_part_of_fair_share": ratios}


if __name__ == "__main__":
    for line in table():
        print(json.dumps(line))
