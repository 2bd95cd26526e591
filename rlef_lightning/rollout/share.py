"""Seats of a collection, a counter that all ranks have in common -> the seats that this rank plays.

Ranks that play with engines of their own take the next seats whenever one of their places is free, so a rank
with slow programs plays fewer and none idles while seats are left. A seat's seed comes from its problem and
sample, so it does not matter who plays it. It plays nothing and knows no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

S = TypeVar("S")


class Counter(Protocol):
    """A number that all ranks count up."""

    def add(self, count: int) -> int:
        """Add, and return the new number; atomic over all ranks."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How one rank gets its seats."""

    counter: Counter
    """Counts the hands that were taken, from 0."""
    players: int
    """Ranks that play: those that lead an engine."""
    samples_per_problem: int = 1
    """Samples of a problem lie side by side; together on one rank they share the prompt's cached prefix."""

    def hand(self, total: int) -> int:
        """Seats that are taken at once: the samples of a problem, but at least 4 hands for each player."""
        return max(1, min(self.samples_per_problem, total // (4 * self.players)))

    def seats(self, seats: Sequence[S]) -> Iterator[tuple[int, S]]:
        """The next seats that nobody has taken, with their places, until none is left."""
        hand = self.hand(len(seats))
        while (first := (self.counter.add(1) - 1) * hand) < len(seats):
            yield from enumerate(seats[first : first + hand], first)

    def in_flight(self, limit: int, total: int) -> int:
        """Episodes that this rank plays at the same time: no more than its fair share of all of them."""
        return min(limit, -(-total // self.players))
